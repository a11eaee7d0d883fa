#include "engram/lab/study/run_output.h"

#include <string_view>

#include "engram/core/json.h"
#include "engram/core/lines.h"

namespace engram {
namespace {

std::string metrics_path(const std::string& output) { return join_path(output, "metrics.jsonl"); }

}  // namespace

Result<std::vector<nlohmann::ordered_json>> read_metrics(Env& env, const std::string& output) {
  std::vector<nlohmann::ordered_json> lines;
  const std::string path = metrics_path(output);
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, env.read_file(path));
  const size_t whole = text.rfind('\n') + 1;  // what follows is being written
  for (std::string_view rest = std::string_view(text).substr(0, whole); !rest.empty();) {
    ENGRAM_ASSIGN_OR_RETURN(auto line, parse_json(take_line(rest), path));
    lines.push_back(std::move(line));
  }
  return lines;
}

RunMetrics last_metrics(Env& env, const std::string& output) {
  RunMetrics metrics;
  const std::string path = metrics_path(output);
  const auto size = env.file_size(path);
  if (!size.ok() || *size == 0) return metrics;
  const auto file = env.map_file(path);
  if (!file.ok()) return metrics;
  const auto bytes = (*file)->bytes();
  std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const size_t end = text.rfind('\n');
  if (end == std::string_view::npos) return metrics;
  text = text.substr(0, end);
  const size_t before = text.rfind('\n');
  const auto line = parse_json(text.substr(before == std::string_view::npos ? 0 : before + 1), path);
  if (!line.ok() || !line->is_object()) return metrics;
  metrics.step = line->value("step", int64_t{0});
  metrics.loss = line->value("loss", 0.0);
  metrics.tokens_per_second = line->value("tokens_per_second", 0.0);
  return metrics;
}

std::string last_log_line(Env& env, const std::string& path) {
  const auto text = env.read_file(path);
  if (!text.ok()) return "no log";
  std::string line = *text;
  while (!line.empty() && line.back() == '\n') line.pop_back();
  const size_t start = line.find_last_of("\r\n");
  return start == std::string::npos ? line : line.substr(start + 1);
}

}  // namespace engram
