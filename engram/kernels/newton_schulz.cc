#include "engram/kernels/newton_schulz.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engram/kernels/gemm.h"

namespace engram {
namespace {

// Of so many sums side by side, because one after the other waits for each addition.
constexpr int64_t kSums = 8;

double norm(const float* x, int64_t size) {
  double sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= size; i += kSums)
    for (int64_t j = 0; j < kSums; ++j) sums[j] += double{x[i + j]} * x[i + j];
  double total = 0;
  for (; i < size; ++i) total += double{x[i]} * x[i];
  for (const double sum : sums) total += sum;
  return std::sqrt(total);
}

}  // namespace

int64_t newton_schulz_scratch(int64_t rows, int64_t columns) { return rows * columns + 2 * columns * columns; }

void newton_schulz(float* x, int64_t rows, int64_t columns, int64_t steps, float* scratch) {
  const int64_t size = rows * columns, square = columns * columns;
  const auto scale = static_cast<float>(1 / std::max(norm(x, size), NewtonSchulz::kNormEps));
  for (int64_t i = 0; i < size; ++i) x[i] *= scale;

  constexpr auto kA = static_cast<float>(NewtonSchulz::kA), kB = static_cast<float>(NewtonSchulz::kB),
                 kC = static_cast<float>(NewtonSchulz::kC);
  float *now = x, *next = scratch, *gram = scratch + size, *polynomial = gram + square;
  for (int64_t step = 0; step < steps; ++step) {
    gemm(columns, columns, rows, {now, 1, columns}, now, columns, gram, columns, false);
    gemm(columns, columns, columns, {gram, columns}, gram, columns, polynomial, columns, false);
    for (int64_t i = 0; i < square; ++i) polynomial[i] = kB * gram[i] + kC * polynomial[i];
    for (int64_t i = 0; i < columns; ++i) polynomial[i * columns + i] += kA;
    gemm(rows, columns, columns, {now, columns}, polynomial, columns, next, columns, false);
    std::swap(now, next);
  }
  if (now != x) std::copy(now, now + size, x);
}

}  // namespace engram
