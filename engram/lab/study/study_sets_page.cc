#include <algorithm>
#include <cmath>

#include "engram/core/json.h"
#include "engram/core/progress.h"
#include "engram/lab/study/study_sets.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

std::string text_of(const nlohmann::json& data, const char* key) { return data.value(key, std::string("unknown")); }

std::string signed_text(const Json& number, int digits = 3) {
  return fmt::format("{:+.{}f}", number.get<double>(), digits);
}

// "0.62 (+0.58 +- 0.11, +0.12 +- 0.10)": the mean, and what it is more than each reference.
std::string cell_text(const Json& value) {
  std::string text = fixed_text(value.at("mean").get<double>()), more;
  for (const Json& difference : value.at("differences")) {
    if (!difference.contains("value")) continue;
    more += fmt::format("{}{}", more.empty() ? "" : ", ", signed_text(difference.at("value")));
    if (difference.contains("low"))
      more += fmt::format(" ± {}",
                          fixed_text((difference.at("high").get<double>() - difference.at("low").get<double>()) / 2));
  }
  return more.empty() ? text : fmt::format("{} ({})", text, more);
}

class SetsPage {
 public:
  SetsPage(const nlohmann::json& data, const Json& sets)
      : data_(data),
        sets_(sets),
        page_(fmt::format("{}: {}", text_of(data, "study"), text_of(data, "title")), text_of(data, "question")) {}

  Page make() {
    const size_t done = data_.at("runs").size(), planned = data_.value("planned_runs", done);
    if (done < planned)
      page_.paragraph(fmt::format("{} of {} runs are done; the rest is missing here.", done, planned));
    hypotheses();
    for (const char* measure : {"exact", "bits_per_byte"})
      for (const std::string& family : families()) family_table(family, measure);
    for (const Json& frame : sets_.at("frames")) frame_table(frame);
    doses();
    prices();
    return std::move(page_);
  }

 private:
  static const char* measure_name(const std::string& measure) {
    return measure == "exact" ? "exact answers" : "bits per byte of the answers";
  }
  std::string label(const Json& arm) const { return sets_.at("arms").at(arm.get<size_t>()).at("label"); }
  std::string references() const {
    return fmt::format("{}", fmt::join(data_.value("references", std::vector<std::string>{}), ", then "));
  }

  // Families of sets at several doses, then "" for all other sets.
  std::vector<std::string> families() const {
    std::vector<std::string> names;
    for (const Json& set : sets_.at("sets")) {
      const std::string family = set.at("family");
      if (set.at("dose") >= 0 && std::ranges::count(names, family) == 0) names.push_back(family);
    }
    names.emplace_back();
    return names;
  }
  std::vector<Json> sets_of(const std::string& family) const {
    std::vector<Json> found;
    for (const Json& set : sets_.at("sets"))
      if (family.empty() ? set.at("dose") < 0 : set.at("family") == family && set.at("dose") >= 0) found.push_back(set);
    return found;
  }
  const Json* value(const Json& set, size_t arm, const std::string& measure) const {
    for (const Json& value : sets_.at("values"))
      if (value.at("set") == set.at("name") && value.at("arm") == arm && value.at("measure") == measure) return &value;
    return nullptr;
  }

  void hypotheses() {
    std::vector<std::vector<std::string>> rows;
    for (const Json& hypothesis : sets_.at("hypotheses")) {
      std::string difference = "-";
      if (hypothesis.contains("value")) difference = signed_text(hypothesis.at("value"));
      if (hypothesis.contains("low"))
        difference += fmt::format(" [{}, {}]", signed_text(hypothesis.at("low")), signed_text(hypothesis.at("high")));
      rows.push_back({hypothesis.at("text"), hypothesis.at("verdict"), hypothesis.at("arm"), hypothesis.at("than"),
                      measure_name(hypothesis.at("measure")), difference});
    }
    if (!rows.empty())
      page_.table("What was expected",
                  "Written in the study file before the runs. The difference is the arm's less the other's, with its "
                  "95 % interval.",
                  {"hypothesis", "verdict", "arm", "than", "measured in", "difference"}, rows);
  }

  void family_table(const std::string& family, const std::string& measure) {
    std::vector<std::string> header = {"arm"};
    std::vector<Json> sets = sets_of(family);
    if (measure == "exact") std::erase_if(sets, [](const Json& set) { return !set.at("question").get<bool>(); });
    for (const Json& set : sets)
      header.push_back(set.at("documents") > 0 ? fmt::format("{} ({})", set.at("name").get<std::string>(),
                                                             set.at("documents").get<double>())
                                               : set.at("name").get<std::string>());
    std::vector<std::vector<std::string>> rows;
    for (size_t arm = 0; arm < sets_.at("arms").size(); ++arm) {
      std::vector<std::string> row = {label(arm)};
      for (const Json& set : sets) {
        const Json* found = value(set, arm, measure);
        row.push_back(found ? cell_text(*found) : "-");
      }
      rows.push_back(std::move(row));
    }
    if (sets.empty()) return;
    page_.table(
        fmt::format("{}: {}", family.empty() ? "other sets" : family, measure_name(measure)),
        fmt::format("In brackets: more than {}, with half of the 95 % interval. In the header: documents of a seed.",
                    references()),
        std::move(header), std::move(rows));
  }

  // Means over each family, and all other sets.
  void frame_table(const Json& frame) {
    const bool flops = frame.at("equal") == "flops";
    std::vector<std::string> header = {"arm", flops ? "operations" : "seconds"};
    for (const std::string& family : families())
      if (!family.empty()) header.push_back(family + ", exact");
    for (const Json& set : sets_of("")) header.push_back(set.at("name").get<std::string>() + ", bits per byte");
    std::vector<std::vector<std::string>> rows;
    for (const Json& entry : frame.at("arms")) {
      const auto arm = entry.at("arm").get<size_t>();
      std::vector<std::string> row = {label(entry.at("arm")), fmt::format("{:.2f}", entry.at("ratio").get<double>())};
      for (const std::string& family : families()) {
        double sum = 0, count = 0;
        for (const Json& set : sets_of(family)) {
          const Json* found = value(set, arm, family.empty() ? "bits_per_byte" : "exact");
          if (family.empty()) row.push_back(found ? fixed_text(found->at("mean").get<double>()) : "-");
          if (found) sum += found->at("mean").get<double>(), ++count;
        }
        if (!family.empty()) row.push_back(count > 0 ? fixed_text(sum / count) : "-");
      }
      rows.push_back(std::move(row));
    }
    page_.table(flops ? "Equal training operations" : "Equal training seconds",
                fmt::format("Of each group the budget nearest to what {} cost; its cost stands as a share of that.",
                            frame.at("to").get<std::string>()),
                std::move(header), std::move(rows));
  }

  void doses() {
    for (const char* measure : {"exact", "bits_per_byte"})
      for (const std::string& family : families()) {
        if (family.empty() || sets_of(family).size() < 3) continue;
        std::vector<Series> lines;
        for (size_t arm = 0; arm < sets_.at("arms").size(); ++arm) {
          Series line{label(arm), {}, {}, {}, {}};
          for (const Json& set : sets_of(family))
            if (const Json* found = value(set, arm, measure)) add_point(set, *found, line);
          if (!line.x.empty()) lines.push_back(std::move(line));
        }
        page_.lines(fmt::format("{}: {} by dose", family, measure_name(measure)),
                    "Bars: from the lowest to the highest seed.", "log2 of how often a fact was told",
                    measure_name(measure), lines);
      }
  }
  static void add_point(const Json& set, const Json& found, Series& line) {
    std::vector<double> seeds;
    for (const Json& seed : found.at("seeds")) seeds.push_back(seed.at(1));
    const auto [low, high] = std::ranges::minmax(seeds);
    line.x.push_back(std::log2(std::max(set.at("dose").get<double>(), 1.0)));
    line.y.push_back(found.at("mean"));
    line.low.push_back(low);
    line.high.push_back(high);
  }

  static std::string gib(double bytes) { return fmt::format("{:.2f}", bytes / (1 << 30)); }
  void prices() {
    std::vector<std::vector<std::string>> rows;
    for (const Json& arm : sets_.at("arms")) {
      const auto number = [&](const char* key) { return arm.at(key).get<double>(); };
      const double positions = number("budget"), seconds = number("seconds");
      const bool writes = arm.contains("decode");
      const auto decode = [&](const char* key) { return arm.at("decode").at(key).get<double>(); };
      rows.push_back({arm.at("label"), format_count(number("added_parameters")),
                      format_count(number("trained_parameters")), format_count(positions),
                      format_count(number("tokens")), positions > 0 ? format_count(number("flops") / positions) : "-",
                      fmt::format("{:.2e}", number("flops")), fmt::format("{:.0f}", seconds),
                      seconds > 0 ? fmt::format("{:.0f}", positions / seconds) : "-", gib(number("peak_rss_bytes")),
                      writes ? fmt::format("{:.1f}", decode("tokens_per_second")) : "-",
                      writes ? gib(decode("peak_rss_bytes")) : "-", fmt::format("{}", arm.at("runs").get<int64_t>())});
    }
    page_.table(
        "What it costs",
        "Operations are counted (engram/lab/study/training_cost.h), seconds measured. Positions are tokens of "
        "windows; targets those that were learned. Written tokens: those of one text behind its first, from the "
        "final model, by itself; peak GiB after them is of its process.",
        {"arm", "added parameters", "trained parameters", "positions", "targets", "operations a position", "operations",
         "seconds", "positions a second", "peak GiB", "written tokens a second", "peak GiB, writing", "runs"},
        rows);
  }

  const nlohmann::json& data_;
  const Json& sets_;
  Page page_;
};

}  // namespace

Page sets_page(const nlohmann::json& data, const Json& sets) { return SetsPage(data, sets).make(); }

}  // namespace engram
