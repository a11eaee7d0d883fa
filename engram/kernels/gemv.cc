#include "engram/kernels/gemv.h"

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

// Output by output, so that a thread reads one stream, a page of which is on its way to the second-level cache. Several
// rows of w at a time, or lines fetched to the first level, read at two thirds of the speed.
template <int kRows>
HWY_NOINLINE void outputs(int64_t n, int64_t k, const float* x, const float* w, int64_t begin, int64_t end, float* y) {
  constexpr int64_t kAhead = 1024;
  for (int64_t o = begin; o < end; ++o) {
    const float* row = w + o * k;
    Floats acc[kRows][2];
    for (int r = 0; r < kRows; ++r) acc[r][0] = acc[r][1] = splat(0);
    int64_t i = 0;
    const auto add = [&](int part, int64_t valid) HWY_ATTR {
      __builtin_prefetch(row + i + kAhead, /*write=*/0, /*locality=*/2);
      const Floats weight = load(row + i, valid);
      for (int r = 0; r < kRows; ++r) acc[r][part] = hn::MulAdd(load(x + r * k + i, valid), weight, acc[r][part]);
      i += lanes();
    };
    while (i + 2 * lanes() <= k) {
      add(0, lanes());
      add(1, lanes());
    }
    while (i < k) add(0, valid_lanes(i, k));
    for (int r = 0; r < kRows; ++r) y[r * n + o] = sum(hn::Add(acc[r][0], acc[r][1]));
  }
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
