// What a study's data.json says: means over seeds, gains over the baseline, and the fits of its question.
//
//   allocation  loss = a + b rho + c rho^2 for each budget: where the minimum is
//   memory      loss = a + b log10(rows) for each group and budget
// Intervals are bootstraps over seeds: every point's seeds are drawn again with replacement, the fit is repeated, and
// the middle 95 % of the answers is the interval. Deterministic. Torch-free.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <vector>

#include "engram/core/status.h"

namespace engram {

// Least squares of y = sum of c[i] x^i, i = 0 .. degree. Empty when the x are fewer than degree + 1 distinct values.
std::vector<double> fit_polynomial(std::span<const double> x, std::span<const double> y, int degree);

struct SeedPoint {
  double x = 0;
  std::vector<double> losses;  // one for each seed
};

struct MinimumFit {
  std::vector<double> coefficients;  // of the means; empty: fewer than three points
  bool convex = false;               // else there is no minimum and the rest is 0
  double x = 0, loss = 0;            // inside the measured range; at its border when the parabola falls towards it
  bool inside = false;
  double low = 0, high = 0;  // interval of x; equal to x with one seed
};
MinimumFit fit_minimum(const std::vector<SeedPoint>& points, int draws = 2000);

struct SlopeFit {
  std::vector<double> coefficients;  // of the means, over log10(x); empty: fewer than two points
  double low = 0, high = 0;          // interval of the slope
  double r_squared = 0;
};
SlopeFit fit_log_slope(const std::vector<SeedPoint>& points, int draws = 2000);

// data: data.json. {"points": [...], "minima": [...], "slopes": [...]} for pages; docs/lab.md lists the fields.
// kDataLoss names what data.json lacks.
Result<nlohmann::ordered_json> analyse_study(const nlohmann::json& data);

}  // namespace engram
