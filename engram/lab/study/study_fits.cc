#include "engram/lab/study/study_fits.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "engram/lab/pages/statistics.h"

namespace engram {
namespace {

using Rows = std::vector<std::vector<double>>;

struct Observations {
  std::vector<double> y;
  std::vector<size_t> point;       // of each y
  std::vector<int64_t> seed;       // of each y
  std::vector<int64_t> all_seeds;  // ascending
};

Observations observe(const std::vector<SeedPoint>& points) {
  Observations out;
  std::set<int64_t> seeds;
  for (size_t i = 0; i < points.size(); ++i)
    for (const auto& [seed, loss] : points[i].losses) {
      out.y.push_back(loss);
      out.point.push_back(i);
      out.seed.push_back(seed);
      seeds.insert(seed);
    }
  out.all_seeds.assign(seeds.begin(), seeds.end());
  return out;
}

// Regressors of every observation: those of its point, then one for each seed after the first.
Rows with_seeds(const Observations& seen, const Rows& of_point) {
  Rows rows;
  for (size_t i = 0; i < seen.y.size(); ++i) {
    rows.push_back(of_point[seen.point[i]]);
    for (size_t s = 1; s < seen.all_seeds.size(); ++s) rows.back().push_back(seen.seed[i] == seen.all_seeds[s]);
  }
  return rows;
}

Rows one_each(size_t points) {
  Rows rows(points, std::vector<double>(points, 0.0));
  for (size_t i = 0; i < points; ++i) rows[i][i] = 1;
  return rows;
}

// loss = model + seed; without seeds when they cannot be told from the models.
std::optional<LinearFit> fit_two_way(const std::vector<SeedPoint>& points, const Observations& seen) {
  std::optional<LinearFit> fit = fit_linear(with_seeds(seen, one_each(points.size())), seen.y);
  if (!fit) {
    Observations alone = seen;
    alone.all_seeds.resize(1);
    fit = fit_linear(with_seeds(alone, one_each(points.size())), seen.y);
  }
  return fit;
}

Rows powers(const std::vector<double>& x, size_t count) {
  Rows rows;
  for (const double value : x) {
    rows.emplace_back(1, 1.0);
    while (rows.back().size() < count) rows.back().push_back(rows.back().back() * value);
  }
  return rows;
}

// A polynomial and what each seed adds. Coefficients: of the average seed.
struct SeededPolynomial {
  LinearFit fit;
  std::vector<double> coefficients;
  double misfit_p_value = 1;
};

std::optional<SeededPolynomial> fit_seeded(const std::vector<SeedPoint>& points, const std::vector<double>& x,
                                           size_t count) {
  const Observations seen = observe(points);
  if (seen.y.empty() || std::set<double>(x.begin(), x.end()).size() < count) return std::nullopt;
  const Rows rows = with_seeds(seen, powers(x, count));
  const std::optional<LinearFit> fit = fit_linear(rows, seen.y);
  if (!fit) return std::nullopt;
  SeededPolynomial out{*fit,
                       {fit->coefficients.begin(), fit->coefficients.begin() + static_cast<std::ptrdiff_t>(count)}};
  for (const auto& row : rows)
    for (size_t i = count; i < row.size(); ++i)
      out.coefficients[0] += row[i] * fit->coefficients[i] / static_cast<double>(rows.size());
  if (seen.all_seeds.size() > 1)
    if (const auto two_way = fit_two_way(points, seen)) out.misfit_p_value = nested_p_value(*fit, *two_way);
  return out;
}

bool has_noise(const std::vector<SeedPoint>& points) {
  return std::any_of(points.begin(), points.end(), [](const SeedPoint& point) { return point.losses.size() > 1; });
}

// Where b + 2 c x may be 0 at 95 %: A x^2 + B x + C <= 0. Between the roots when c is clearly not 0; else outside them,
// or everywhere. What of it lies in the measured range, from its lowest to its highest place.
void add_fieller_set(const LinearFit& fit, double range_low, double range_high, MinimumFit& out) {
  const double b = fit.coefficients[1], c = fit.coefficients[2], t = student_t_quantile(fit.degrees);
  const double scale = t * t * fit.variance();
  const double A = 4 * (c * c - scale * fit.inverse[2][2]), B = 4 * (b * c - scale * fit.inverse[1][2]);
  const double C = b * b - scale * fit.inverse[1][1], root = std::sqrt(std::max(0.0, B * B - 4 * A * C));
  out.has_interval = true;
  out.low = range_low, out.high = range_high;
  if (A > 0) {
    out.low = std::clamp((-B - root) / (2 * A), range_low, range_high);
    out.high = std::clamp((-B + root) / (2 * A), range_low, range_high);
  } else if (A < 0 && B * B > 4 * A * C) {
    const double first = (-B + root) / (2 * A), second = (-B - root) / (2 * A);  // all but the places between them
    if (first < range_low) out.low = std::clamp(second, range_low, range_high);
    if (second > range_high) out.high = std::clamp(first, range_low, range_high);
    if (out.low > out.high) out.low = out.high = out.x;  // nothing of it lies in the range
  }
  out.low_bounded = out.low > range_low;
  out.high_bounded = out.high < range_high;
}

}  // namespace

std::optional<Noise> run_noise(const std::vector<SeedPoint>& points) {
  if (!has_noise(points)) return std::nullopt;
  const auto fit = fit_two_way(points, observe(points));
  if (!fit || fit->degrees < 1) return std::nullopt;
  return Noise{std::sqrt(fit->variance()), fit->degrees};
}

std::optional<Contrast> paired_difference(const SeedPoint& other, const SeedPoint& point, const Noise& noise) {
  std::vector<double> differences;
  for (const auto& [seed, loss] : point.losses)
    if (const auto found = other.losses.find(seed); found != other.losses.end())
      differences.push_back(found->second - loss);
  if (differences.empty()) return std::nullopt;
  const double error = noise.deviation * std::sqrt(2.0 / static_cast<double>(differences.size()));
  return make_contrast(mean_of(differences), error, noise.degrees);
}

std::optional<FirstAgainstRest> first_against_rest(const std::vector<SeedPoint>& points) {
  if (points.size() < 3 || !has_noise(points)) return std::nullopt;
  const Observations seen = observe(points);
  const Rows each = with_seeds(seen, one_each(points.size()));
  const auto fit = fit_linear(each, seen.y);
  if (!fit || fit->degrees < 1) return std::nullopt;
  Rows two(points.size(), {0, 1}), one(points.size(), {1});
  two[0] = {1, 0};
  const auto rest_equal = fit_linear(with_seeds(seen, two), seen.y),
             all_equal = fit_linear(with_seeds(seen, one), seen.y);
  if (!rest_equal || !all_equal) return std::nullopt;
  std::vector<double> weights(fit->coefficients.size(), 0.0);
  for (size_t i = 0; i < points.size(); ++i) weights[i] = i == 0 ? 1 : -1 / static_cast<double>(points.size() - 1);
  return FirstAgainstRest{contrast(*fit, weights), nested_p_value(*all_equal, *fit), nested_p_value(*rest_equal, *fit)};
}

MinimumFit fit_minimum(const std::vector<SeedPoint>& points) {
  MinimumFit out;
  std::vector<double> x;
  for (const SeedPoint& point : points) x.push_back(point.x);
  const auto fitted = fit_seeded(points, x, 3);
  if (!fitted) return out;
  out.coefficients = fitted->coefficients;
  out.misfit_p_value = fitted->misfit_p_value;
  const auto [low, high] = std::minmax_element(x.begin(), x.end());
  const std::vector<double>& c = out.coefficients;
  out.convex = c[2] > 0;
  if (!out.convex) return out;
  const double vertex = -c[1] / (2 * c[2]);
  out.inside = vertex > *low && vertex < *high;
  out.x = out.low = out.high = std::clamp(vertex, *low, *high);
  out.loss = c[0] + c[1] * out.x + c[2] * out.x * out.x;
  if (has_noise(points) && fitted->fit.degrees > 0) add_fieller_set(fitted->fit, *low, *high, out);
  return out;
}

SlopeFit fit_log_slope(const std::vector<SeedPoint>& points) {
  SlopeFit out;
  std::vector<double> x, means;
  for (const SeedPoint& point : points) {
    x.push_back(std::log10(point.x));
    means.push_back(0);
    for (const auto& [seed, loss] : point.losses) means.back() += loss / static_cast<double>(point.losses.size());
  }
  const auto fitted = fit_seeded(points, x, 2);
  if (!fitted) return out;
  out.coefficients = fitted->coefficients;
  out.misfit_p_value = fitted->misfit_p_value;
  double residual = 0, total = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    residual += std::pow(means[i] - out.coefficients[0] - out.coefficients[1] * x[i], 2);
    total += std::pow(means[i] - mean_of(means), 2);
  }
  out.r_squared = total > 0 ? 1 - residual / total : 0;
  out.low = out.high = out.coefficients[1];
  if (!has_noise(points) || fitted->fit.degrees < 1) return out;
  std::vector<double> weights(fitted->fit.coefficients.size(), 0.0);
  weights[1] = 1;
  const Contrast slope = contrast(fitted->fit, weights);
  out.has_interval = true;
  out.low = slope.low, out.high = slope.high;
  return out;
}

}  // namespace engram
