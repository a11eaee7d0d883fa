#include "engram/lab/study/study_sets.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <tuple>

#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/core/progress.h"
#include "engram/lab/pages/statistics.h"
#include "engram/lab/study/study_analysis.h"
#include "engram/lab/study/study_fits.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kMostAnswerTokens = 32;  // a document with more of them is a text, not a question

struct Arm {
  std::string group, sweep;  // sweep: its values, "adamw_lr 0.001"
  int64_t budget = 0;
  std::map<int64_t, nlohmann::json> runs;  // by seed

  double mean(const char* key) const {
    std::vector<double> values;
    for (const auto& [seed, run] : runs) values.push_back(run.value(key, 0.0));
    return mean_of(values);
  }
  // The means of what was measured of the models that write; none: of no run.
  std::optional<Json> decode() const {
    Json out;
    for (const char* key : {"tokens_per_second", "peak_rss_bytes"}) {
      std::vector<double> values;
      for (const auto& [seed, run] : runs)
        if (const auto* decode = json_find(run, "decode")) values.push_back(decode->at(key));
      if (values.empty()) return std::nullopt;
      out[key] = mean_of(values);
    }
    return out;
  }
};

// "trained-16" is of the family "trained" at 16; other sets are at -1.
std::pair<std::string, int64_t> family_of(const std::string& set) {
  const size_t dash = set.find_last_of('-');
  const bool number = dash != std::string::npos && dash + 1 < set.size() && set.size() - dash < 10 &&
                      std::all_of(set.begin() + static_cast<std::ptrdiff_t>(dash) + 1, set.end(),
                                  [](char c) { return c >= '0' && c <= '9'; });
  if (!number) return {set, -1};
  return {set.substr(0, dash), std::stoll(set.substr(dash + 1))};
}

std::optional<double> value_of(const nlohmann::json& run, const std::string& set, const std::string& measure) {
  const nlohmann::json* holder = &run;
  if (set != kValidationText) {
    const auto* sets = json_find(run, "validation_sets");
    holder = sets && sets->is_object() ? json_find(*sets, set) : nullptr;
  } else if (measure == "exact") {
    return std::nullopt;
  }
  const auto* value = holder ? json_find(*holder, measure) : nullptr;
  if (!value || !value->is_number()) return std::nullopt;
  return value->get<double>();
}

// The mean over the sets, of each seed that has them all.
SeedPoint values_of(const Arm& arm, const std::vector<std::string>& sets, const std::string& measure) {
  SeedPoint point;
  for (const auto& [seed, run] : arm.runs) {
    std::vector<double> values;
    for (const std::string& set : sets)
      if (const auto value = value_of(run, set, measure)) values.push_back(*value);
    if (values.size() == sets.size()) point.losses[seed] = mean_of(values);
  }
  return point;
}

double mean_of(const SeedPoint& point) {
  double sum = 0;
  for (const auto& [seed, value] : point.losses) sum += value;
  return sum / static_cast<double>(point.losses.size());
}

class SetAnalysis {
 public:
  explicit SetAnalysis(const nlohmann::json& data) : data_(data) {}

  Result<Json> analyse() {
    ENGRAM_RETURN_IF_ERROR(collect());
    Json out{{"sets", sets()}, {"arms", arms()}, {"values", Json::array()}};
    for (const Json& set : out.at("sets"))
      for (const char* measure : {"exact", "bits_per_byte"})
        if (set.at("question").get<bool>() || std::string_view(measure) != "exact")
          for (size_t arm = 0; arm < arms_.size(); ++arm) add_value(arm, set.at("name"), measure, out["values"]);
    out["frames"] = Json::array();
    for (const char* key : {"flops", "seconds"}) add_frame(key, out["frames"]);
    out["hypotheses"] = Json::array();
    for (const auto& hypothesis : data_.value("hypotheses", nlohmann::json::array()))
      out["hypotheses"].push_back(judge(hypothesis));
    return out;
  }

 private:
  Status collect() {
    Fields fields(data_, "data.json");
    std::map<std::string, size_t> order;
    for (Fields& each : fields.sections("groups")) {
      std::string name;
      each.need("name", name);
      ENGRAM_RETURN_IF_ERROR(each.status());
      order.emplace(name, order.size());
    }
    std::map<std::tuple<size_t, int64_t, std::string>, Arm> arms;
    std::set<std::tuple<bool, std::string, int64_t, std::string>> sets;
    for (Fields& each : fields.sections("runs")) {
      std::string group;
      int64_t budget = 0, seed = 0;
      each.need("group", group);
      each.need("budget", budget);
      each.need("seed", seed);
      ENGRAM_RETURN_IF_ERROR(each.status());
      if (!order.contains(group)) return data_loss("data.json: run: group {} is not in groups", quote_text(group));
      const std::string sweep = sweep_label(each.object());
      Arm& arm = arms[{order.at(group), -budget, sweep}];
      arm.group = group;
      arm.sweep = sweep;
      arm.budget = budget;
      arm.runs[seed] = each.object();
      const nlohmann::json measured = each.object().value("validation_sets", nlohmann::json::object());
      for (const auto& [set, numbers] : measured.items()) {
        const auto [family, dose] = family_of(set);
        sets.emplace(dose < 0, family, dose, set);
      }
    }
    ENGRAM_RETURN_IF_ERROR(fields.status());
    for (auto& [key, arm] : arms) arms_.push_back(std::move(arm));
    for (const auto& [no_dose, family, dose, name] : sets) sets_.push_back(name);
    sets_.push_back(kValidationText);
    references_ = data_.value("references", std::vector<std::string>{});
    return {};
  }

  // The largest budget's, or that which is nearest to `budget`.
  const Arm* arm_of(const std::string& group, std::optional<int64_t> budget = std::nullopt) const {
    const Arm* found = nullptr;
    for (const Arm& arm : arms_) {
      if (arm.group != group) continue;
      if (!found || (budget && std::abs(arm.budget - *budget) < std::abs(found->budget - *budget))) found = &arm;
    }
    return found;
  }

  std::string label(const Arm& arm) const {
    const std::string name = arm.sweep.empty() ? arm.group : fmt::format("{}: {}", arm.group, arm.sweep);
    const bool alone = std::ranges::none_of(arms_, [&](const Arm& other) {
      return other.group == arm.group && other.sweep == arm.sweep && other.budget != arm.budget;
    });
    return alone ? name : fmt::format("{}, {} tokens", name, format_count(static_cast<double>(arm.budget)));
  }

  Json sets() const {
    Json out = Json::array();
    for (const std::string& name : sets_) {
      double documents = 0, tokens = 0;
      for (const Arm& arm : arms_)
        for (const auto& [seed, run] : arm.runs) {
          const auto sets = run.value("validation_sets", nlohmann::json::object());
          if (!sets.contains(name)) continue;
          documents = sets.at(name).value("documents", 0.0);
          tokens = sets.at(name).value("tokens", 0.0);
        }
      const auto [family, dose] = family_of(name);
      out.push_back({{"name", name},
                     {"family", family},
                     {"dose", dose},
                     {"documents", documents},
                     {"tokens", tokens},
                     {"question", documents > 0 && tokens <= kMostAnswerTokens * documents}});
    }
    return out;
  }

  Json arms() const {
    Json out = Json::array();
    for (const Arm& arm : arms_) {
      Json described{{"group", arm.group}, {"label", label(arm)}, {"budget", arm.budget}, {"runs", arm.runs.size()}};
      for (const char* key : {"tokens", "flops", "seconds", "peak_rss_bytes", "added_parameters", "trained_parameters"})
        described[key] = arm.mean(key);
      if (const auto decode = arm.decode()) described["decode"] = *decode;
      out.push_back(std::move(described));
    }
    return out;
  }

  // Every arm that trains shares its noise; two arms that are noisier have their own.
  std::optional<Noise> noise_of(const Arm& a, const Arm& b, const std::vector<std::string>& sets,
                                const std::string& measure) const {
    std::vector<SeedPoint> all;
    for (const Arm& arm : arms_)
      if (arm.budget > 0)
        if (SeedPoint point = values_of(arm, sets, measure); !point.losses.empty()) all.push_back(std::move(point));
    std::optional<Noise> noise = run_noise(all);
    const auto own = run_noise({values_of(a, sets, measure), values_of(b, sets, measure)});
    if (noise && own) noise->deviation = std::max(noise->deviation, own->deviation);
    return noise ? noise : own;
  }

  Json difference(const Arm& arm, const Arm& than, const std::vector<std::string>& sets,
                  const std::string& measure) const {
    Json out{{"than", than.group}};
    const SeedPoint mine = values_of(arm, sets, measure), theirs = values_of(than, sets, measure);
    std::vector<double> differences;
    for (const auto& [seed, value] : mine.losses)
      if (const auto found = theirs.losses.find(seed); found != theirs.losses.end())
        differences.push_back(value - found->second);
    if (differences.empty()) return out;
    out["value"] = engram::mean_of(differences);
    const auto noise = noise_of(arm, than, sets, measure);
    if (!noise) return out;
    const auto contrast = paired_difference(mine, theirs, *noise);
    out.update({{"low", contrast->low}, {"high", contrast->high}, {"p_value", contrast->p_value}});
    return out;
  }

  void add_value(size_t index, const std::string& set, const std::string& measure, Json& out) const {
    const Arm& arm = arms_[index];
    const SeedPoint point = values_of(arm, {set}, measure);
    if (point.losses.empty()) return;
    Json value{{"set", set}, {"measure", measure}, {"arm", index}, {"mean", mean_of(point)}};
    value["seeds"] = Json::array();
    for (const auto& [seed, number] : point.losses) value["seeds"].push_back({seed, number});
    value["differences"] = Json::array();
    for (const std::string& reference : references_)
      if (const Arm* than = arm_of(reference, arm.budget); than && than->group != arm.group)
        value["differences"].push_back(difference(arm, *than, {set}, measure));
    out.push_back(std::move(value));
  }

  // Of each group the budget that cost most nearly what the last reference's did.
  void add_frame(const char* key, Json& out) const {
    const Arm* target = references_.empty() ? nullptr : arm_of(references_.back());
    const double amount = target ? target->mean(key) : 0;
    if (amount <= 0) return;
    Json frame{{"equal", key}, {"to", target->group}, {"amount", amount}, {"arms", Json::array()}};
    std::map<std::string, std::pair<double, size_t>> nearest;
    std::vector<std::string> groups;
    for (size_t i = 0; i < arms_.size(); ++i) {
      const double cost = arms_[i].mean(key);
      if (cost <= 0) continue;
      const double away = std::abs(std::log(cost / amount));
      const auto [found, added] = nearest.emplace(arms_[i].group, std::make_pair(away, i));
      if (added) groups.push_back(arms_[i].group);
      if (away < found->second.first) found->second = {away, i};
    }
    for (const std::string& group : groups) {
      const size_t arm = nearest.at(group).second;
      frame["arms"].push_back({{"arm", arm}, {"ratio", arms_[arm].mean(key) / amount}});
    }
    out.push_back(std::move(frame));
  }

  Json judge(const nlohmann::json& hypothesis) const {
    Json out = hypothesis;
    const Arm *arm = arm_of(hypothesis.value("arm", "")), *than = arm_of(hypothesis.value("than", ""));
    out["verdict"] = "no runs yet";
    if (!arm || !than) return out;
    const Json found =
        difference(*arm, *than, hypothesis.value("sets", std::vector<std::string>{}), hypothesis.value("measure", ""));
    if (!found.contains("value")) return out;
    out.update(found);
    out["verdict"] = "not resolved";
    if (!found.contains("low")) return out;
    const std::string expect = hypothesis.value("expect", "");
    const double sign = expect == "more" || expect == "not less" ? 1 : -1;
    const double margin = expect.starts_with("not") ? hypothesis.value("margin", 0.0) : 0;
    const double low = found.at("low").get<double>(), high = found.at("high").get<double>();
    const double worst = (sign > 0 ? low : -high) + margin, best = (sign > 0 ? high : -low) + margin;
    if (worst > 0) out["verdict"] = "yes";
    if (best < 0) out["verdict"] = "no";
    return out;
  }

  const nlohmann::json& data_;
  std::vector<Arm> arms_;
  std::vector<std::string> sets_, references_;
};

}  // namespace

bool has_validation_sets(const nlohmann::json& data) {
  const auto* runs = json_find(data, "runs");
  return runs && runs->is_array() && std::ranges::any_of(*runs, [](const nlohmann::json& run) {
           const auto* sets = run.is_object() ? json_find(run, "validation_sets") : nullptr;
           return sets && sets->is_object() && !sets->empty();
         });
}

Result<Json> analyse_sets(const nlohmann::json& data) {
  try {
    return SetAnalysis(data).analyse();
  } catch (const nlohmann::json::exception& error) {
    return data_loss("data.json: {}", error.what());
  }
}

}  // namespace engram
