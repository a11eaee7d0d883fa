// Statistics for probes: means with errors, intervals, and areas under ROC curves. Plain doubles, no torch.
//
// Tokens of one window depend on each other, so probes average inside a window first and treat windows as the sample.
// Everything is deterministic: a bootstrap draws from numpy's generator with the seed it is given.
#pragma once
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <vector>

namespace engram {

// REQUIRES: not empty.
double mean_of(std::span<const double> values);
// Of a sample; 0 for fewer than two values.
double deviation_of(std::span<const double> values);

struct Estimate {
  double mean = 0, error = 0;  // error: standard error of the mean; 0 for fewer than two values
  int64_t count = 0;
};
Estimate estimate(std::span<const double> values);

struct Interval {
  double low = 0, high = 0;
};
// Wilson's 95 % interval of a share. REQUIRES: 0 <= successes <= trials, trials > 0.
Interval wilson_interval(int64_t successes, int64_t trials);

// The value with the share `share` of the sorted values below it, on the line between its two neighbours (numpy's
// default rule). The one rule for every percentile of this room. REQUIRES: sorted, not empty, 0 <= share <= 1.
double percentile(std::span<const double> sorted, double share);

// Student's t with `degrees` of freedom: the size that |t| exceeds with probability `outside`, and the probability that
// |t| is as large as this one's.
double student_t_quantile(double degrees, double outside = 0.05);
double student_t_p_value(double t, double degrees);
// Probability that F with these degrees of freedom is larger.
double f_p_value(double f, double numerator_degrees, double denominator_degrees);

// The 95 % percentile interval of a statistic over units drawn with replacement; the statistic receives `units`
// indices in [0, units) and returns one or more numbers, always as many. A number that is not finite is left out.
std::vector<Interval> bootstrap_intervals(
    int64_t units, int64_t draws, uint64_t seed,
    const std::function<std::vector<double>(std::span<const int64_t>)>& statistic);

// Probability that a positive value exceeds a negative one, ties half (Mann-Whitney). 0.5 when either is empty.
double area_under_roc(std::span<const double> positives, std::span<const double> negatives);

// {"mean", "error", "count"} and {"low", "high"}.
nlohmann::ordered_json to_json(const Estimate& value);
nlohmann::ordered_json to_json(const Interval& value);

}  // namespace engram
