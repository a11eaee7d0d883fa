#include "engram/lab/study/linear_fit.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "engram/lab/pages/statistics.h"

namespace engram {
namespace {

using Matrix = std::vector<std::vector<double>>;

// Gauss-Jordan with pivoting. Empty: singular, as far as doubles can say.
std::optional<Matrix> inverse_of(Matrix a) {
  const size_t n = a.size();
  Matrix out(n, std::vector<double>(n, 0.0));
  double largest = 0;
  for (size_t i = 0; i < n; ++i) {
    out[i][i] = 1;
    for (const double value : a[i]) largest = std::max(largest, std::abs(value));
  }
  for (size_t column = 0; column < n; ++column) {
    size_t pivot = column;
    for (size_t row = column + 1; row < n; ++row)
      if (std::abs(a[row][column]) > std::abs(a[pivot][column])) pivot = row;
    if (std::abs(a[pivot][column]) <= 1e-12 * largest) return std::nullopt;
    std::swap(a[pivot], a[column]);
    std::swap(out[pivot], out[column]);
    for (size_t row = 0; row < n; ++row) {
      const double factor = (row == column ? a[row][column] - 1 : a[row][column]) / a[column][column];
      for (size_t i = 0; i < n; ++i) {
        a[row][i] -= factor * a[column][i];
        out[row][i] -= factor * out[column][i];
      }
    }
  }
  return out;
}

}  // namespace

std::optional<LinearFit> fit_linear(const Matrix& rows, std::span<const double> y) {
  if (rows.empty() || rows.size() != y.size() || rows.size() < rows[0].size()) return std::nullopt;
  const size_t n = rows[0].size();
  Matrix normal(n, std::vector<double>(n, 0.0));
  std::vector<double> right(n, 0.0);
  for (size_t i = 0; i < rows.size(); ++i)
    for (size_t row = 0; row < n; ++row) {
      for (size_t column = 0; column < n; ++column) normal[row][column] += rows[i][row] * rows[i][column];
      right[row] += rows[i][row] * y[i];
    }
  std::optional<Matrix> inverse = inverse_of(std::move(normal));
  if (!inverse) return std::nullopt;
  LinearFit fit;
  fit.inverse = *std::move(inverse);
  fit.coefficients.assign(n, 0.0);
  for (size_t row = 0; row < n; ++row)
    for (size_t i = 0; i < n; ++i) fit.coefficients[row] += fit.inverse[row][i] * right[i];
  for (size_t i = 0; i < rows.size(); ++i) {
    double residual = y[i];
    for (size_t column = 0; column < n; ++column) residual -= rows[i][column] * fit.coefficients[column];
    fit.squares += residual * residual;
  }
  fit.degrees = static_cast<int>(rows.size() - n);
  return fit;
}

Contrast make_contrast(double value, double error, double degrees) {
  const double half = student_t_quantile(degrees) * error;
  return {value, value - half, value + half, error > 0 ? student_t_p_value(value / error, degrees) : (value == 0)};
}

Contrast contrast(const LinearFit& fit, std::span<const double> weights) {
  double value = 0, spread = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    value += weights[i] * fit.coefficients[i];
    for (size_t j = 0; j < weights.size(); ++j) spread += weights[i] * weights[j] * fit.inverse[i][j];
  }
  return make_contrast(value, std::sqrt(std::max(0.0, spread) * fit.variance()), fit.degrees);
}

double nested_p_value(const LinearFit& smaller, const LinearFit& larger) {
  const int more = smaller.degrees - larger.degrees;
  if (more <= 0 || larger.degrees <= 0) return 1;
  const double explained = std::max(0.0, smaller.squares - larger.squares) / more;
  if (larger.squares == 0) return explained > 0 ? 0 : 1;
  return f_p_value(explained / larger.variance(), more, larger.degrees);
}

std::vector<double> fit_polynomial(std::span<const double> x, std::span<const double> y, int degree) {
  const auto n = static_cast<size_t>(degree) + 1;
  if (x.size() != y.size() || std::set<double>(x.begin(), x.end()).size() < n) return {};
  Matrix rows;
  for (const double value : x) {
    rows.emplace_back(1, 1.0);
    while (rows.back().size() < n) rows.back().push_back(rows.back().back() * value);
  }
  const std::optional<LinearFit> fit = fit_linear(rows, y);
  return fit ? fit->coefficients : std::vector<double>{};
}

}  // namespace engram
