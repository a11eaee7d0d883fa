#include "engram/lab/pages/statistics.h"

#include <algorithm>
#include <boost/math/distributions/students_t.hpp>
#include <boost/math/special_functions/beta.hpp>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "engram/hash/numpy_random.h"

namespace engram {
namespace {

// What has no answer is NaN, not an exception.
using NoThrow = boost::math::policies::policy<boost::math::policies::domain_error<boost::math::policies::ignore_error>,
                                              boost::math::policies::pole_error<boost::math::policies::ignore_error>>;

}  // namespace

double mean_of(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double deviation_of(std::span<const double> values) {
  if (values.size() < 2) return 0;
  const double mean = mean_of(values);
  double sum = 0;
  for (const double value : values) sum += (value - mean) * (value - mean);
  return std::sqrt(sum / static_cast<double>(values.size() - 1));
}

Estimate estimate(std::span<const double> values) {
  Estimate out;
  out.count = static_cast<int64_t>(values.size());
  if (values.empty()) return out;
  out.mean = mean_of(values);
  out.error = deviation_of(values) / std::sqrt(static_cast<double>(values.size()));
  return out;
}

Interval wilson_interval(int64_t successes, int64_t trials) {
  const double z = 1.959963984540054, n = static_cast<double>(trials), p = static_cast<double>(successes) / n;
  const double centre = (p + z * z / (2 * n)) / (1 + z * z / n);
  const double half = z * std::sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n);
  return {std::max(0.0, centre - half), std::min(1.0, centre + half)};
}

double percentile(std::span<const double> sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

double student_t_p_value(double t, double degrees) {
  return boost::math::ibeta(degrees / 2, 0.5, degrees / (degrees + t * t), NoThrow());
}

double student_t_quantile(double degrees, double outside) {
  const boost::math::students_t_distribution<double, NoThrow> student(degrees);
  return boost::math::quantile(boost::math::complement(student, outside / 2));
}

double f_p_value(double f, double numerator_degrees, double denominator_degrees) {
  return boost::math::ibeta(denominator_degrees / 2, numerator_degrees / 2,
                            denominator_degrees / (denominator_degrees + numerator_degrees * f), NoThrow());
}

std::vector<Interval> bootstrap_intervals(
    int64_t units, int64_t draws, uint64_t seed,
    const std::function<std::vector<double>(std::span<const int64_t>)>& statistic) {
  NumpyRandom random(seed);
  std::vector<int64_t> chosen(static_cast<size_t>(units));
  std::vector<std::vector<double>> samples;
  for (int64_t draw = 0; draw < draws; ++draw) {
    for (int64_t& unit : chosen) unit = random.integers(0, units);
    const std::vector<double> values = statistic(chosen);
    samples.resize(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      if (std::isfinite(values[i])) samples[i].push_back(values[i]);
    }
  }
  std::vector<Interval> intervals;
  for (auto& values : samples) {
    const double nan = std::nan("");
    if (values.empty()) {
      intervals.push_back({nan, nan});
      continue;
    }
    std::sort(values.begin(), values.end());
    intervals.push_back({percentile(values, 0.025), percentile(values, 0.975)});
  }
  return intervals;
}

double area_under_roc(std::span<const double> positives, std::span<const double> negatives) {
  if (positives.empty() || negatives.empty()) return 0.5;
  std::vector<double> sorted(negatives.begin(), negatives.end());
  std::sort(sorted.begin(), sorted.end());
  double wins = 0;
  for (double value : positives) {
    const auto low = std::lower_bound(sorted.begin(), sorted.end(), value);
    const auto high = std::upper_bound(low, sorted.end(), value);
    wins += static_cast<double>(low - sorted.begin()) + 0.5 * static_cast<double>(high - low);
  }
  return wins / (static_cast<double>(positives.size()) * static_cast<double>(negatives.size()));
}

nlohmann::ordered_json to_json(const Estimate& value) {
  return {{"mean", value.mean}, {"error", value.error}, {"count", value.count}};
}

nlohmann::ordered_json to_json(const Interval& value) {
  nlohmann::ordered_json out = {{"low", nullptr}, {"high", nullptr}};
  if (std::isfinite(value.low)) out = {{"low", value.low}, {"high", value.high}};
  return out;
}

}  // namespace engram
