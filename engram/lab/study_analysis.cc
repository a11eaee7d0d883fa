#include "engram/lab/study_analysis.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <tuple>

#include "engram/core/json.h"
#include "engram/core/numpy_random.h"
#include "engram/lab/statistics.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

// Gaussian elimination with pivoting; `a` is n x (n + 1), the last column the right-hand side.
std::vector<double> solve(std::vector<std::vector<double>> a) {
  const size_t n = a.size();
  for (size_t column = 0; column < n; ++column) {
    size_t pivot = column;
    for (size_t row = column; row < n; ++row)
      if (std::abs(a[row][column]) > std::abs(a[pivot][column])) pivot = row;
    std::swap(a[pivot], a[column]);
    for (size_t row = column + 1; row < n; ++row) {
      const double factor = a[row][column] / a[column][column];
      for (size_t i = column; i <= n; ++i) a[row][i] -= factor * a[column][i];
    }
  }
  std::vector<double> x(n);
  for (size_t row = n; row-- > 0;) {
    double sum = a[row][n];
    for (size_t i = row + 1; i < n; ++i) sum -= a[row][i] * x[i];
    x[row] = sum / a[row][row];
  }
  return x;
}

std::vector<double> means(const std::vector<SeedPoint>& points) {
  std::vector<double> y;
  for (const SeedPoint& point : points) y.push_back(mean_of(point.losses));
  return y;
}

std::vector<double> xs(const std::vector<SeedPoint>& points) {
  std::vector<double> x;
  for (const SeedPoint& point : points) x.push_back(point.x);
  return x;
}

bool has_spread(const std::vector<SeedPoint>& points) {
  return std::any_of(points.begin(), points.end(), [](const SeedPoint& point) { return point.losses.size() > 1; });
}

std::vector<double> resampled_means(const std::vector<SeedPoint>& points, NumpyRandom& random) {
  std::vector<double> y;
  for (const SeedPoint& point : points) {
    double sum = 0;
    const auto n = static_cast<int64_t>(point.losses.size());
    for (int64_t i = 0; i < n; ++i) sum += point.losses[static_cast<size_t>(random.integers(0, n))];
    y.push_back(sum / static_cast<double>(n));
  }
  return y;
}

// The middle 95 % of the answers.
std::pair<double, double> interval(std::vector<double> answers) {
  std::sort(answers.begin(), answers.end());
  const double last = static_cast<double>(answers.size() - 1);
  return {answers[static_cast<size_t>(std::floor(0.025 * last))],
          answers[static_cast<size_t>(std::ceil(0.975 * last))]};
}

// Where a parabola is lowest on [low, high]: its vertex, or the lower end.
double lowest(const std::vector<double>& c, double low, double high) {
  const auto at = [&](double x) { return c[0] + c[1] * x + c[2] * x * x; };
  if (c[2] > 0) return std::clamp(-c[1] / (2 * c[2]), low, high);
  return at(low) < at(high) ? low : high;
}

}  // namespace

std::vector<double> fit_polynomial(std::span<const double> x, std::span<const double> y, int degree) {
  const auto n = static_cast<size_t>(degree) + 1;
  if (x.size() != y.size() || std::set<double>(x.begin(), x.end()).size() < n) return {};
  std::vector<std::vector<double>> normal(n, std::vector<double>(n + 1, 0.0));
  for (size_t i = 0; i < x.size(); ++i)
    for (size_t row = 0; row < n; ++row) {
      for (size_t column = 0; column < n; ++column)
        normal[row][column] += std::pow(x[i], static_cast<double>(row + column));
      normal[row][n] += y[i] * std::pow(x[i], static_cast<double>(row));
    }
  return solve(std::move(normal));
}

MinimumFit fit_minimum(const std::vector<SeedPoint>& points, int draws) {
  MinimumFit fit;
  const std::vector<double> x = xs(points);
  fit.coefficients = fit_polynomial(x, means(points), 2);
  if (fit.coefficients.empty()) return fit;
  const auto [low, high] = std::minmax_element(x.begin(), x.end());
  const std::vector<double>& c = fit.coefficients;
  fit.convex = c[2] > 0;
  if (!fit.convex) return fit;
  const double vertex = -c[1] / (2 * c[2]);
  fit.inside = vertex > *low && vertex < *high;
  fit.x = fit.low = fit.high = std::clamp(vertex, *low, *high);
  fit.loss = c[0] + c[1] * fit.x + c[2] * fit.x * fit.x;
  if (!has_spread(points)) return fit;
  NumpyRandom random(0);
  std::vector<double> answers;
  for (int draw = 0; draw < draws; ++draw)
    answers.push_back(lowest(fit_polynomial(x, resampled_means(points, random), 2), *low, *high));
  std::tie(fit.low, fit.high) = interval(std::move(answers));
  return fit;
}

SlopeFit fit_log_slope(const std::vector<SeedPoint>& points, int draws) {
  SlopeFit fit;
  std::vector<double> x = xs(points);
  for (double& value : x) value = std::log10(value);
  const std::vector<double> y = means(points);
  fit.coefficients = fit_polynomial(x, y, 1);
  if (fit.coefficients.empty()) return fit;
  double residual = 0, total = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    residual += std::pow(y[i] - fit.coefficients[0] - fit.coefficients[1] * x[i], 2);
    total += std::pow(y[i] - mean_of(y), 2);
  }
  fit.r_squared = total > 0 ? 1 - residual / total : 0;
  fit.low = fit.high = fit.coefficients[1];
  if (!has_spread(points)) return fit;
  NumpyRandom random(0);
  std::vector<double> answers;
  for (int draw = 0; draw < draws; ++draw) answers.push_back(fit_polynomial(x, resampled_means(points, random), 1)[1]);
  std::tie(fit.low, fit.high) = interval(std::move(answers));
  return fit;
}

namespace {

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

std::string sweep_label(const nlohmann::json& run) {
  std::string label;
  if (const auto* sweep = json_find(run, "sweep"); sweep && sweep->is_object())
    for (const auto& [key, value] : sweep->items())
      label += fmt::format("{}{} {}", label.empty() ? "" : ", ", key.substr(key.find_last_of('.') + 1),
                           value.is_string() ? value.get<std::string>() : value.dump());
  return label;
}

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
  const auto* groups = json_find(data, "groups");
  const auto* runs = json_find(data, "runs");
  if (!groups || !groups->is_array() || !runs || !runs->is_array())
    return data_loss("data.json: groups and runs: wanted two arrays");
  struct Group {
    size_t order = 0;
    std::string axis = "none", baseline;
  };
  std::map<std::string, Group> known;
  for (size_t i = 0; i < groups->size(); ++i) {
    Group group;
    group.order = i;
    ENGRAM_ASSIGN_OR_RETURN(const std::string name, json_string(groups->at(i), "name", "data.json: group"));
    ENGRAM_ASSIGN_OR_RETURN(group.axis, json_string(groups->at(i), "axis", "data.json: group"));
    ENGRAM_ASSIGN_OR_RETURN(group.baseline, json_string(groups->at(i), "baseline", "data.json: group"));
    known.emplace(name, std::move(group));
  }
  std::map<std::tuple<size_t, int64_t, double, nlohmann::json, std::string>, Point> points;
  for (const auto& run : *runs) {
    ENGRAM_ASSIGN_OR_RETURN(const std::string group, json_string(run, "group", "data.json: run"));
    ENGRAM_ASSIGN_OR_RETURN(const int64_t seed, json_integer(run, "seed", "data.json: run"));
    ENGRAM_ASSIGN_OR_RETURN(const int64_t budget, json_integer(run, "budget", "data.json: run"));
    for (const char* key : {"val_loss", "bits_per_byte", "rho", "rows", "train_loss", "seconds_per_step"})
      ENGRAM_RETURN_IF_ERROR(json_number(run, key, "data.json: run").status());
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
  std::vector<Point> sorted;
  for (auto& [key, point] : points) sorted.push_back(std::move(point));
  return sorted;
}

// Seed by seed against the baseline of the same budget: seeds share the order of the text, so differences are paired.
void add_gain(const Point& point, const Point& baseline, Json& out) {
  std::vector<double> gains;
  for (const auto& [seed, run] : point.runs)
    if (const auto other = baseline.runs.find(seed); other != baseline.runs.end())
      gains.push_back(other->second.at("val_loss").get<double>() - run.at("val_loss").get<double>());
  if (gains.empty()) return;
  out["gain"] = mean_of(gains);
  if (gains.size() > 1) out["gain_deviation"] = deviation_of(gains);
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
  if (point.axis == "rho" || point.axis == "rows") out["x"] = point.x;
  for (const char* key :
       {"control", "rho", "rho_counted", "p_tot", "p_act", "experts", "ffn_width", "rows", "peak_rss_bytes"})
    if (const auto* value = json_find(first, key)) out[key] = *value;
  return out;
}

std::vector<SeedPoint> seed_points(const std::vector<Point>& points, const Point& like) {
  std::vector<SeedPoint> out;
  for (const Point& point : points)
    if (point.group == like.group && point.budget == like.budget && point.label == like.label)
      out.push_back({point.x, point.values("val_loss")});
  return out;
}

Json interval_json(double low, double high) { return Json::array({low, high}); }

void add_fits(const std::vector<Point>& points, Json& out) {
  std::set<std::tuple<std::string, int64_t, std::string>> seen;
  for (const Point& point : points) {
    if (point.axis != "rho" && point.axis != "rows") continue;
    if (!seen.emplace(point.group, point.budget, point.label).second) continue;
    const std::vector<SeedPoint> line = seed_points(points, point);
    Json fit{{"group", point.group}, {"budget", point.budget}, {"label", point.label}};
    if (point.axis == "rho" && line.size() > 3) {  // three points are always a parabola
      const MinimumFit minimum = fit_minimum(line);
      fit.update({{"coefficients", minimum.coefficients},
                  {"convex", minimum.convex},
                  {"inside", minimum.inside},
                  {"rho", minimum.x},
                  {"loss", minimum.loss},
                  {"interval", interval_json(minimum.low, minimum.high)}});
      out["minima"].push_back(std::move(fit));
    } else if (point.axis == "rows" && line.size() > 2) {
      const SlopeFit slope = fit_log_slope(line);
      fit.update({{"coefficients", slope.coefficients},
                  {"interval", interval_json(slope.low, slope.high)},
                  {"r_squared", slope.r_squared}});
      out["slopes"].push_back(std::move(fit));
    }
  }
}

}  // namespace

Result<Json> analyse_study(const nlohmann::json& data) {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<Point> points, collect_points(data));
  Json out{{"points", Json::array()}, {"minima", Json::array()}, {"slopes", Json::array()}};
  for (const Point& point : points) {
    Json described = describe_point(point);
    // The first point of the baseline's group: the largest rho, the fewest rows, the first setting.
    const auto baseline = std::find_if(points.begin(), points.end(), [&](const Point& other) {
      return other.budget == point.budget && other.group == point.baseline;
    });
    if (baseline != points.end() && &*baseline != &point) add_gain(point, *baseline, described);
    out["points"].push_back(std::move(described));
  }
  add_fits(points, out);
  return out;
}

}  // namespace engram
