// One step of a running softmax over tiles of scores [keys, columns], a vector of columns at a time. The attention
// kernels share it. Included like simd-inl.h: once per Highway target inside a file that uses foreach_target.h.
#ifndef ENGRAM_KERNELS_LOWEST_SCORE
#define ENGRAM_KERNELS_LOWEST_SCORE
namespace engram {
inline constexpr float kLowestScore = -1e30f;  // a maximum over nothing; finite, so that differences stay numbers
}  // namespace engram
#endif

#if defined(ENGRAM_KERNELS_SOFTMAX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ENGRAM_KERNELS_SOFTMAX_INL_H_
#undef ENGRAM_KERNELS_SOFTMAX_INL_H_
#else
#define ENGRAM_KERNELS_SOFTMAX_INL_H_
#endif

#include "engram/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace engram {
namespace HWY_NAMESPACE {

// Scores become exp(score - maximum); maximum and sum are updated, and factor says what earlier sums are multiplied by.
//   column           the vector's first score; rows are `stride` apart
//   begin, end       the rows that every column sees, of `rows`; for the others masked(visit) calls
//                    visit(row, mask of the columns that see it), in the order in which their sums run
template <typename Masked>
HWY_INLINE void softmax_step(float* column, int64_t stride, int64_t begin, int64_t end, const Masked& masked,
                             float* maximum, float* sum_of, float* factor_of) {
  const FloatTag d;
  Floats most = hn::LoadU(d, maximum);
  const Floats before = most;
  for (int64_t r = begin; r < end; ++r) most = hn::Max(most, hn::LoadU(d, column + r * stride));
  masked([&](int64_t r, auto mask) HWY_ATTR {
    most = hn::Max(most, hn::IfThenElse(mask, hn::LoadU(d, column + r * stride), splat(kLowestScore)));
  });
  const Floats factor = fast_exp(hn::Sub(before, most));
  Floats total = hn::Mul(hn::LoadU(d, sum_of), factor);
  for (int64_t r = begin; r < end; ++r) {
    const Floats e = fast_exp(hn::Sub(hn::LoadU(d, column + r * stride), most));
    total = hn::Add(total, e);
    hn::StoreU(e, d, column + r * stride);
  }
  masked([&](int64_t r, auto mask) HWY_ATTR {
    const Floats e = hn::IfThenElseZero(mask, fast_exp(hn::Sub(hn::LoadU(d, column + r * stride), most)));
    total = hn::Add(total, e);
    hn::StoreU(e, d, column + r * stride);
  });
  hn::StoreU(most, d, maximum);
  hn::StoreU(total, d, sum_of);
  hn::StoreU(factor, d, factor_of);
}

// rows [n, columns] *= factors [columns]. columns: a multiple of the vector's width.
HWY_INLINE void scale_columns(float* rows, int64_t n, int64_t columns, const float* factors) {
  const FloatTag d;
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t c = 0; c < columns; c += lanes()) {
      float* at = rows + r * columns + c;
      hn::StoreU(hn::Mul(hn::LoadU(d, at), hn::LoadU(d, factors + c)), d, at);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace engram
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
