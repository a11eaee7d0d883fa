#include "engram/lab/pages/watch.h"

#include <map>
#include <nlohmann/json.hpp>

#include "engram/core/markup.h"
#include "engram/lab/pages/assets.h"
#include "engram/lab/study/run_output.h"
#include "engram/train/metrics_sink.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMostPoints = 500;  // of a line

// Neighbouring points become their mean, and the last step of theirs.
Json thinned(const std::vector<std::pair<int64_t, double>>& points) {
  Json out = Json::array();
  const size_t together = (points.size() + kMostPoints - 1) / kMostPoints;
  for (size_t begin = 0; begin < points.size(); begin += together) {
    const size_t end = std::min(points.size(), begin + together);
    double sum = 0;
    for (size_t i = begin; i < end; ++i) sum += points[i].second;
    out.push_back({points[end - 1].first, sum / static_cast<double>(end - begin)});
  }
  return out;
}

Json run_json(const std::string& output, const std::vector<Json>& lines) {
  Json run = {{"name", output}, {"numbers", Json::object()}};
  std::vector<std::string> names;
  std::map<std::string, std::vector<std::pair<int64_t, double>>> numbers;
  for (const Json& line : lines) {
    const int64_t step = line.value("step", int64_t{0});
    for_each_number(line, [&](const std::string& name, double number) {
      auto& points = numbers[name];
      if (points.empty()) names.push_back(name);
      points.emplace_back(step, number);
    });
    for (const char* late : {"histograms", "samples"})
      if (line.contains(late)) run[late] = {{"step", step}, {"shown", line[late]}};
    run["step"] = step;
  }
  for (const std::string& name : names) run["numbers"][name] = thinned(numbers[name]);
  return run;
}

}  // namespace

Result<std::string> watch_page(Env& env, const std::vector<std::string>& outputs, int refresh) {
  Json data = {{"refresh", refresh}, {"runs", Json::array()}};
  for (const std::string& output : outputs) {
    ENGRAM_ASSIGN_OR_RETURN(const std::vector<Json> lines, read_metrics(env, output));
    data["runs"].push_back(run_json(output, lines));
  }
  return fill_page(
      assets::watch_html,
      {{"/*PAGE_CSS*/", assets::page_css}, {"/*PAGE_JS*/", assets::page_js}, {"/*DATA*/", script_json(data)}});
}

}  // namespace engram
