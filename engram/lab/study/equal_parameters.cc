#include "engram/lab/study/equal_parameters.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>

#include "engram/model/parameters.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

std::optional<double> number_of(const Json& run, const char* key) {
  const auto found = run.find(key);
  if (found == run.end() || !found->is_number()) return std::nullopt;
  return found->get<double>();
}

// The groups that go along the axis rho; "wanted" of their records without one is the run at rho = 1.
std::set<std::string> axis_groups(const Json& data) {
  std::set<std::string> names;
  for (const Json& group : data.value("groups", Json::array()))
    if (group.value("axis", "") == std::string_view("rho")) names.insert(group.value("name", ""));
  return names;
}

const Json* pure_experts(const Json& runs, const std::set<std::string>& groups) {
  for (const Json& run : runs)
    if (groups.contains(run.value("group", "")) && number_of(run, "rho") == 1.0) return &run;
  return nullptr;
}

}  // namespace

std::string equal_parameters_text(const Json& data) {
  const Json& runs = data.at("runs");
  const std::set<std::string> groups = axis_groups(data);
  const Json* pure = pure_experts(runs, groups);
  double total = 0, active = 0;
  std::set<std::pair<double, double>> models;
  for (const Json& run : runs) {
    auto want_total = number_of(run, "p_tot_wanted"), want_active = number_of(run, "p_act_wanted");
    if (!run.contains("p_tot_wanted") && pure != nullptr && groups.contains(run.value("group", ""))) {
      want_total = number_of(*pure, "p_tot");
      want_active = number_of(*pure, "p_act");
    }
    const auto got_total = number_of(run, "p_tot"), got_active = number_of(run, "p_act");
    if (!want_total || !want_active || !got_total || !got_active || *want_total <= 0 || *want_active <= 0) continue;
    total = std::max(total, std::abs(*got_total / *want_total - 1));
    active = std::max(active, std::abs(*got_active / *want_active - 1));
    models.insert({*got_total, *got_active});
  }
  if (models.empty()) return "";
  return fmt::format(
      "Equal parameters: over all models that promise them, P_tot came within {:.3f} % and P_act within {:.3f} % of "
      "the "
      "model at rho = 1; promised are {:g} % and {:g} %.",
      total * 100, active * 100, kTotalTolerance * 100, kActiveTolerance * 100);
}

}  // namespace engram
