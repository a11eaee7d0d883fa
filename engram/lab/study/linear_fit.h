// Least squares with what its answers are worth: coefficients, contrasts between them with Student's t intervals, and
// F tests against a smaller model. Plain doubles; a handful of unknowns. Torch-free.
#pragma once
#include <optional>
#include <span>
#include <vector>

namespace engram {

struct LinearFit {
  std::vector<double> coefficients;
  std::vector<std::vector<double>> inverse;  // of X'X: times variance() the covariance of the coefficients
  double squares = 0;                        // sum of the squared residuals
  int degrees = 0;                           // observations less coefficients

  double variance() const { return degrees > 0 ? squares / degrees : 0; }
};
// rows[i] are the regressors of y[i], all of one length. Empty: the columns depend on each other.
std::optional<LinearFit> fit_linear(const std::vector<std::vector<double>>& rows, std::span<const double> y);

// A number with its 95 % interval by t and the probability of one as far from 0 by chance.
struct Contrast {
  double value = 0, low = 0, high = 0, p_value = 1;
};
Contrast make_contrast(double value, double error, double degrees);
// The sum of weights[i] * coefficients[i]. REQUIRES: fit.degrees > 0.
Contrast contrast(const LinearFit& fit, std::span<const double> weights);

// Probability by chance of what `larger` explains beyond `smaller`, a model inside it of the same observations; 1 when
// they have equally many coefficients.
double nested_p_value(const LinearFit& smaller, const LinearFit& larger);

// Least squares of y = sum of c[i] x^i, i = 0 .. degree. Empty when the x are fewer than degree + 1 distinct values.
std::vector<double> fit_polynomial(std::span<const double> x, std::span<const double> y, int degree);

}  // namespace engram
