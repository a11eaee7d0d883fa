#include "engram/lab/study/study_analysis.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <tuple>

#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/lab/pages/statistics.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

struct Point {
  std::string group, label;  // label: the sweep's values
  std::string axis;          // rho, rows, sweep, none
  std::string baseline;      // group
  double x = 0;
  int64_t budget = 0;
  std::map<int64_t, nlohmann::json> runs;  // by seed

  std::vector<double> values(const char* key) const {
    std::vector<double> out;
    for (const auto& [seed, run] : runs) out.push_back(run.at(key).get<double>());
    return out;
  }
};

// The sweep's values, which records keep as a recipe writes them ("[11]"), with numbers as numbers: what sorts them.
nlohmann::json sweep_order(const nlohmann::json& run) {
  nlohmann::json order = nlohmann::json::array();
  if (const auto* sweep = json_find(run, "sweep"); sweep && sweep->is_object())
    for (const auto& [key, value] : sweep->items()) {
      nlohmann::json parsed = value;
      if (value.is_string())
        parsed = nlohmann::json::parse(value.get<std::string>(), nullptr, /*allow_exceptions=*/false);
      order.push_back(parsed.is_discarded() ? value : parsed);
    }
  return order;
}

// Runs of one model and budget, in the order of the study's groups, then budget, then x, then the sweep's values as
// numbers: [2] before [11].
Result<std::vector<Point>> collect_points(const nlohmann::json& data) {
  struct Group {
    size_t order = 0;
    std::string axis = "none", baseline;
  };
  std::map<std::string, Group> known;
  Fields fields(data, "data.json");
  for (const char* key : {"groups", "runs"})
    if (!fields.find(key)) fields.fail(key, "missing, wanted an array");
  for (Fields& each : fields.sections("groups")) {
    Group group{known.size()};
    std::string name;
    each.need("name", name);
    each.need("axis", group.axis);
    each.need("baseline", group.baseline);
    ENGRAM_RETURN_IF_ERROR(each.status());
    known.emplace(name, std::move(group));
  }
  std::map<std::tuple<size_t, int64_t, double, nlohmann::json, std::string>, Point> points;
  for (Fields& each : fields.sections("runs")) {
    std::string group;
    int64_t seed = 0, budget = 0;
    double number = 0;
    each.need("group", group);
    each.need("seed", seed);
    each.need("budget", budget);
    for (const char* key : {"val_loss", "bits_per_byte", "rho", "rows", "train_loss", "seconds_per_step"})
      each.need(key, number);
    ENGRAM_RETURN_IF_ERROR(each.status());
    const nlohmann::json& run = each.object();
    const auto found = known.find(group);
    if (found == known.end()) return data_loss("data.json: run: group {} is not in groups", quote_text(group));
    const size_t order = found->second.order;
    Point point;
    point.group = group;
    point.axis = found->second.axis;
    point.baseline = found->second.baseline;
    point.label = sweep_label(run);
    point.budget = budget;
    if (point.axis == "rho" || point.axis == "rows") point.x = run.at(point.axis).get<double>();
    const auto key =
        std::make_tuple(order, budget, point.axis == "rho" ? -point.x : point.x, sweep_order(run), point.label);
    points.try_emplace(key, std::move(point)).first->second.runs[seed] = run;
  }
  ENGRAM_RETURN_IF_ERROR(fields.status());
  std::vector<Point> sorted;
  for (auto& [key, point] : points) sorted.push_back(std::move(point));
  return sorted;
}

bool has_axis(const Point& point) { return point.axis == "rho" || point.axis == "rows" || point.axis == "sweep"; }

// The loss on a part of the validation text ("all": on all of it); nothing when the run did not record it.
std::optional<double> loss_on(const nlohmann::json& run, const std::string& targets) {
  if (targets == "all") return run.at("val_loss").get<double>();
  const auto* parts = json_find(run, "val_parts");
  const auto* part = parts && parts->is_object() ? json_find(*parts, targets) : nullptr;
  const auto* loss = part && part->is_object() ? json_find(*part, "loss") : nullptr;
  if (!loss || !loss->is_number()) return std::nullopt;
  return loss->get<double>();
}

// Seeds whose run recorded the part.
SeedPoint seed_point(const Point& point, const std::string& targets) {
  SeedPoint out{point.x, {}};
  for (const auto& [seed, run] : point.runs)
    if (const auto loss = loss_on(run, targets)) out.losses.emplace(seed, *loss);
  return out;
}

// The points that share their noise with `point`: its line, or all models without an axis; and the baseline.
std::vector<SeedPoint> noise_points(const std::vector<Point>& points, const Point& point, const Point& baseline,
                                    const std::string& targets) {
  std::vector<SeedPoint> out;
  for (const Point& other : points) {
    if (other.budget != point.budget) continue;
    const bool mine = has_axis(point) ? other.group == point.group : !has_axis(other);
    if (!mine && &other != &baseline) continue;
    if (SeedPoint seen = seed_point(other, targets); !seen.losses.empty()) out.push_back(std::move(seen));
  }
  return out;
}

// Seed by seed against the baseline of the same budget: seeds share the order of the text, so differences are paired.
void add_gain(const std::vector<Point>& points, const Point& point, const Point& baseline, const std::string& targets,
              Json& out) {
  const SeedPoint mine = seed_point(point, targets), other = seed_point(baseline, targets);
  std::vector<double> gains;
  for (const auto& [seed, loss] : mine.losses)
    if (const auto found = other.losses.find(seed); found != other.losses.end()) gains.push_back(found->second - loss);
  if (gains.empty()) return;
  out["gain"] = mean_of(gains);
  if (gains.size() > 1) out["gain_deviation"] = deviation_of(gains);
  const auto noise = run_noise(noise_points(points, point, baseline, targets));
  if (!noise) return;
  const auto gain = paired_difference(other, mine, *noise);
  out["gain_interval"] = {gain->low, gain->high};
  out["gain_p_value"] = gain->p_value;
}

Json describe_point(const Point& point) {
  const nlohmann::json& first = point.runs.begin()->second;
  const std::vector<double> losses = point.values("val_loss");
  Json seeds = Json::array();
  for (const auto& [seed, run] : point.runs) seeds.push_back({seed, run.at("val_loss")});
  Json out{{"group", point.group},
           {"label", point.label},
           {"axis", point.axis},
           {"budget", point.budget},
           {"runs", point.runs.size()},
           {"val_loss", mean_of(losses)},
           {"bits_per_byte", mean_of(point.values("bits_per_byte"))},
           {"train_loss", mean_of(point.values("train_loss"))},
           {"seconds_per_step", mean_of(point.values("seconds_per_step"))},
           {"seeds", seeds}};
  if (losses.size() > 1) out["deviation"] = deviation_of(losses);
  for (const char* part : {"repeats", "rest"}) {
    std::vector<double> on_part;
    for (const auto& [seed, loss] : seed_point(point, part).losses) on_part.push_back(loss);
    if (on_part.size() == losses.size()) out[part] = {{"loss", mean_of(on_part)}};
  }
  if (point.axis == "rho" || point.axis == "rows") out["x"] = point.x;
  for (const char* key :
       {"control", "rho", "rho_counted", "p_tot", "p_act", "experts", "ffn_width", "rows", "peak_rss_bytes"})
    if (const auto* value = json_find(first, key)) out[key] = *value;
  return out;
}

// Empty when some run did not record the part.
std::vector<SeedPoint> seed_points(const std::vector<Point>& points, const Point& like, const std::string& targets) {
  std::vector<SeedPoint> out;
  for (const Point& point : points) {
    if (point.group != like.group || point.budget != like.budget) continue;
    if (like.axis != "sweep" && point.label != like.label) continue;
    out.push_back(seed_point(point, targets));
    if (out.back().losses.size() < point.runs.size()) return {};
  }
  return out;
}

Json to_json(const Contrast& value) {
  return {{"value", value.value}, {"low", value.low}, {"high", value.high}, {"p_value", value.p_value}};
}

Json minimum_json(const MinimumFit& fit) {
  Json out{{"coefficients", fit.coefficients},
           {"convex", fit.convex},
           {"inside", fit.inside},
           {"rho", fit.x},
           {"loss", fit.loss},
           {"misfit_p_value", fit.misfit_p_value}};
  if (fit.has_interval) {
    out["interval"] = {fit.low, fit.high};
    out["bounded"] = {fit.low_bounded, fit.high_bounded};
  }
  return out;
}

Json slope_json(const SlopeFit& fit) {
  Json out{{"coefficients", fit.coefficients}, {"r_squared", fit.r_squared}, {"misfit_p_value", fit.misfit_p_value}};
  if (fit.has_interval) out["interval"] = {fit.low, fit.high};
  return out;
}

void add_fits(const std::vector<Point>& points, const std::string& targets, Json& out) {
  std::set<std::tuple<std::string, int64_t, std::string>> seen;
  for (const Point& point : points) {
    if (!has_axis(point)) continue;
    const std::string label = point.axis == "sweep" ? "" : point.label;
    if (!seen.emplace(point.group, point.budget, label).second) continue;
    const std::vector<SeedPoint> line = seed_points(points, point, targets);
    const Json name{{"group", point.group}, {"budget", point.budget}, {"label", label}, {"targets", targets}};
    const auto add = [&](const char* list, Json fields) {
      Json fit = name;
      fit.update(fields);
      out[list].push_back(std::move(fit));
    };
    if (const auto noise = run_noise(line); noise && line.size() > 2) {
      Json fields{{"axis", point.axis}, {"noise", noise->deviation}, {"degrees", noise->degrees}};
      if (const auto split = first_against_rest(line))
        fields.update({{"first_minus_rest", to_json(split->difference)},
                       {"all_p_value", split->all_p_value},
                       {"rest_p_value", split->rest_p_value}});
      add("lines", std::move(fields));
    }
    if (point.axis == "rho" && line.size() > 3) add("minima", minimum_json(fit_minimum(line)));  // 3: always a parabola
    if (point.axis == "rows" && line.size() > 2) add("slopes", slope_json(fit_log_slope(line)));
  }
}

}  // namespace

std::string sweep_label(const nlohmann::json& run) {
  std::string label;
  if (const auto* sweep = json_find(run, "sweep"); sweep && sweep->is_object())
    for (const auto& [key, value] : sweep->items())
      label += fmt::format("{}{} {}", label.empty() ? "" : ", ", key.substr(key.find_last_of('.') + 1),
                           value.is_string() ? value.get<std::string>() : value.dump());
  return label;
}

Result<Json> analyse_study(const nlohmann::json& data) {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<Point> points, collect_points(data));
  Json out{{"points", Json::array()}, {"lines", Json::array()}, {"minima", Json::array()}, {"slopes", Json::array()}};
  for (const Point& point : points) {
    Json described = describe_point(point);
    // The first point of the baseline's group: the largest rho, the fewest rows, the first setting.
    const auto baseline = std::find_if(points.begin(), points.end(), [&](const Point& other) {
      return other.budget == point.budget && other.group == point.baseline;
    });
    if (baseline != points.end() && &*baseline != &point) {
      add_gain(points, point, *baseline, "all", described);
      if (described.contains("rest")) add_gain(points, point, *baseline, "rest", described["rest"]);
    }
    out["points"].push_back(std::move(described));
  }
  for (const char* targets : {"all", "rest"}) add_fits(points, targets, out);
  return out;
}

}  // namespace engram
