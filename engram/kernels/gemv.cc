#include "engram/kernels/gemv.h"

#include <hwy/cache_control.h>

#include <algorithm>
#include <array>

#include "engram/kernels/gemm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engram/kernels/gemv.cc"
#include <hwy/foreach_target.h>

#include "engram/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace engram {
namespace HWY_NAMESPACE {

// kOutputs rows of w against kRows rows of x.
template <int kRows, int kOutputs>
HWY_INLINE void dot_products(int64_t n, int64_t k, const float* x, const float* w, float* y) {
  Floats acc[kRows][kOutputs];
  for (int r = 0; r < kRows; ++r) {
    for (int o = 0; o < kOutputs; ++o) acc[r][o] = splat(0);
  }
  for (int64_t i = 0; i < k; i += lanes()) {
    const int64_t valid = valid_lanes(i, k);
    Floats rows[kRows];
    for (int r = 0; r < kRows; ++r) rows[r] = load(x + r * k + i, valid);
    for (int o = 0; o < kOutputs; ++o) {
      hwy::Prefetch(w + (kOutputs + o) * k + i);  // the next outputs' lines are on their way while these are summed
      const Floats weight = load(w + o * k + i, valid);
      for (int r = 0; r < kRows; ++r) acc[r][o] = hn::MulAdd(rows[r], weight, acc[r][o]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int o = 0; o < kOutputs; ++o) y[r * n + o] = sum(acc[r][o]);
  }
}

template <int kRows>
HWY_NOINLINE void outputs(int64_t n, int64_t k, const float* x, const float* w, int64_t begin, int64_t end, float* y) {
  int64_t o = begin;
  for (; o + 4 <= end; o += 4) dot_products<kRows, 4>(n, k, x, w + o * k, y + o);
  for (; o < end; ++o) dot_products<kRows, 1>(n, k, x, w + o * k, y + o);
}

void Gemv(int64_t m, int64_t n, int64_t k, const float* x, const float* w, int64_t begin, int64_t end, float* y) {
  switch (m) {
    case 1: return outputs<1>(n, k, x, w, begin, end, y);
    case 2: return outputs<2>(n, k, x, w, begin, end, y);
    case 3: return outputs<3>(n, k, x, w, begin, end, y);
    default: return outputs<4>(n, k, x, w, begin, end, y);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace engram
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram {

HWY_EXPORT(Gemv);

void gemv(int64_t m, int64_t n, int64_t k, const float* x, const float* w, int64_t begin, int64_t end, float* y) {
  HWY_DYNAMIC_DISPATCH(Gemv)(m, n, k, x, w, begin, end, y);
}

void few_rows_product(int64_t m, int64_t n, int64_t k, const float* x, const float* columns, const float* w,
                      int64_t begin, int64_t end, float* y) {
  if (m <= kGemvRows) return gemv(m, n, k, x, w, begin, end, y);
  constexpr int64_t kOutputs = 96;
  std::array<float, kOutputs * kFewRows> out;
  for (int64_t at = begin; at < end; at += kOutputs) {
    const int64_t count = std::min(kOutputs, end - at);
    gemm(count, m, k, {w + at * k, k, 1}, columns, m, out.data(), m, /*accumulate=*/false);
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t o = 0; o < count; ++o) y[r * n + at + o] = out[static_cast<size_t>(o * m + r)];
    }
  }
}

}  // namespace engram
#endif  // HWY_ONCE
