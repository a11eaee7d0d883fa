#include "engram/kernels/sampling.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engram/kernels/sampling.cc"
#include <hwy/foreach_target.h>

#include "engram/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace engram {
namespace HWY_NAMESPACE {

// A sum in double of vectors of floats.
#if HWY_TARGET == HWY_SCALAR
using Sum = double;
HWY_INLINE Sum no_sum() { return 0; }
HWY_INLINE Sum add(Sum to, Floats v) { return to + double{hn::GetLane(v)}; }
HWY_INLINE double value_of(Sum sum) { return sum; }
#else
using DoubleTag = hn::Repartition<double, FloatTag>;
using Sum = hn::Vec<DoubleTag>;
HWY_INLINE Sum no_sum() { return hn::Zero(DoubleTag()); }
HWY_INLINE Sum add(Sum to, Floats v) {
  const DoubleTag d;
  const hn::Half<FloatTag> half;
  return hn::Add(to, hn::Add(hn::PromoteTo(d, hn::LowerHalf(half, v)), hn::PromoteTo(d, hn::UpperHalf(half, v))));
}
HWY_INLINE double value_of(Sum sum) { return hn::GetLane(hn::SumOfLanes(DoubleTag(), sum)); }
#endif

Extremes Range(const float* x, int64_t n) {
  const FloatTag d;
  Floats least = splat(x[0]), most = least;
  int64_t i = 0;
  for (; i + lanes() <= n; i += lanes()) {
    const Floats v = hn::LoadU(d, x + i);
    least = hn::Min(least, v);
    most = hn::Max(most, v);
  }
  Extremes out{hn::GetLane(hn::MinOfLanes(d, least)), hn::GetLane(hn::MaxOfLanes(d, most))};
  for (; i < n; ++i) out = {std::min(out.least, x[i]), std::max(out.most, x[i])};
  return out;
}

// For each block of kSumBlock the sum of vector(i, valid), which is zero past `valid`.
template <typename Vector>
HWY_INLINE double sum_up(int64_t n, double* sums, const Vector& vector) {
  double total = 0;
  for (int64_t block = 0; block * kSumBlock < n; ++block) {
    const int64_t end = std::min(n, (block + 1) * kSumBlock);
    Sum sum = no_sum();
    for (int64_t i = block * kSumBlock; i < end; i += lanes()) sum = add(sum, vector(i, valid_lanes(i, end)));
    const double block_sum = value_of(sum);
    if (sums != nullptr) sums[block] = block_sum;
    total += block_sum;
  }
  return total;
}

double SoftmaxWeights(const float* x, int64_t n, float most, float scale, float least, float* weights, double* sums) {
  const Floats lowest = splat(-FLT_MAX), smallest = splat(kSmallestPower);
  return sum_up(n, sums, [&](int64_t i, int64_t valid) HWY_ATTR {
    // A difference may be beyond floats; times a scale of 0 it would be no number.
    const Floats power = hn::Mul(hn::Max(hn::Sub(load(x + i, valid), splat(most)), lowest), splat(scale));
    Floats weight = hn::IfThenElseZero(hn::Gt(power, smallest), fast_exp(power));
    weight = hn::IfThenElseZero(hn::Ge(weight, splat(least)), weight);
    if (valid < lanes()) weight = hn::IfThenElseZero(hn::FirstN(FloatTag(), static_cast<size_t>(valid)), weight);
    if (weights != nullptr) store(weight, weights + i, valid);
    return weight;
  });
}

double KeepLikeliest(const float* x, int64_t n, float logit, int64_t last_tie, float* weights, double* sums) {
  const FloatTag d;
  return sum_up(n, sums, [&](int64_t i, int64_t valid) HWY_ATTR {
    const Floats v = load(x + i, valid), limit = splat(logit);
    const auto ties = static_cast<size_t>(std::clamp<int64_t>(last_tie + 1 - i, 0, lanes()));
    const auto kept = hn::Or(hn::Gt(v, limit), hn::And(hn::Eq(v, limit), hn::FirstN(d, ties)));
    const Floats weight = hn::IfThenElseZero(kept, load(weights + i, valid));
    store(weight, weights + i, valid);
    return weight;
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace engram
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram {

HWY_EXPORT(Range);
HWY_EXPORT(SoftmaxWeights);
HWY_EXPORT(KeepLikeliest);

Extremes extremes(const float* x, int64_t n) { return HWY_DYNAMIC_DISPATCH(Range)(x, n); }

double softmax_weights(const float* x, int64_t n, float most, float scale, float least, float* weights, double* sums) {
  return HWY_DYNAMIC_DISPATCH(SoftmaxWeights)(x, n, most, scale, least, weights, sums);
}

double keep_likeliest(const float* x, int64_t n, float logit, int64_t last_tie, float* weights, double* sums) {
  return HWY_DYNAMIC_DISPATCH(KeepLikeliest)(x, n, logit, last_tie, weights, sums);
}

namespace {

double sum_up_plain(const float* weights, int64_t n, double* sums) {
  std::fill_n(sums, sum_blocks(n), 0.0);
  for (int64_t i = 0; i < n; ++i) sums[i / kSumBlock] += weights[i];
  double total = 0;
  for (int64_t block = 0; block < sum_blocks(n); ++block) total += sums[block];
  return total;
}

}  // namespace

double softmax_weights_plain(const float* x, int64_t n, float most, float scale, float least, float* weights,
                             double* sums) {
  for (int64_t i = 0; i < n; ++i) {
    const double power = (double{x[i]} - most) * scale, weight = std::exp(power);
    weights[i] = power <= kSmallestPower || weight < least ? 0.0f : static_cast<float>(weight);
  }
  return sum_up_plain(weights, n, sums);
}

double keep_likeliest_plain(const float* x, int64_t n, float logit, int64_t last_tie, float* weights, double* sums) {
  for (int64_t i = 0; i < n; ++i) {
    if (!(x[i] > logit || (x[i] == logit && i <= last_tie))) weights[i] = 0;
  }
  return sum_up_plain(weights, n, sums);
}

}  // namespace engram
#endif  // HWY_ONCE
