// The fits of a study: how models differ, where a parabola is lowest, how loss falls with rows, with intervals that
// hold for as few seeds as there are.
//
// The noise of one run is taken as normal, equal for all models of a fit, on top of what a seed adds to every model
// alike (seeds share the order of the text). So every interval is exact at 95 % for such runs: Student's t with what is
// left after models and seeds (two-way), and Fieller's set for a minimum. One seed gives no interval.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "engram/lab/study/linear_fit.h"

namespace engram {

struct SeedPoint {
  double x = 0;
  std::map<int64_t, double> losses;  // by seed
};

// The noise of one run, from loss = model + seed over all points.
struct Noise {
  double deviation = 0;
  int degrees = 0;
};
// Empty: no seed has two points, or no point two seeds.
std::optional<Noise> run_noise(const std::vector<SeedPoint>& points);

// other minus point, mean over their common seeds; the interval by `noise`. Empty without a common seed.
std::optional<Contrast> paired_difference(const SeedPoint& other, const SeedPoint& point, const Noise& noise);

// Is the first point worse than the rest, and do the rest differ? For three or more points with noise.
struct FirstAgainstRest {
  Contrast difference;      // first minus the mean of the rest
  double all_p_value = 1;   // of F: do any of the points differ
  double rest_p_value = 1;  // do the rest
};
std::optional<FirstAgainstRest> first_against_rest(const std::vector<SeedPoint>& points);

struct MinimumFit {
  std::vector<double> coefficients;  // of the means; empty: fewer than three points
  bool convex = false;               // else there is no minimum and the rest is 0
  double x = 0, loss = 0;            // inside the measured range; at its border when the parabola falls towards it
  bool inside = false;
  // Fieller's 95 % set for the place of the vertex, within the measured range. A side is bounded when the set ends
  // before the range does.
  bool has_interval = false;
  double low = 0, high = 0;
  bool low_bounded = false, high_bounded = false;
  double misfit_p_value = 1;  // of means this far from the parabola
};
MinimumFit fit_minimum(const std::vector<SeedPoint>& points);

struct SlopeFit {
  std::vector<double> coefficients;  // of the means, over log10(x); empty: fewer than two points
  bool has_interval = false;
  double low = 0, high = 0;  // of the slope
  double r_squared = 0;
  double misfit_p_value = 1;  // of means this far from the line
};
SlopeFit fit_log_slope(const std::vector<SeedPoint>& points);

}  // namespace engram
