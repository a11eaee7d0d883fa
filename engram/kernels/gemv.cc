#include "engram/kernels/gemv.h"

#include <algorithm>
#include <array>

#include "engram/kernels/gemm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engram/kernels/gemv.cc"
#include <hwy/foreach_target.h>

#include "engram/kernels/bf16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace engram {
namespace HWY_NAMESPACE {

HWY_INLINE Floats widened(const float* from, int64_t n) { return load(from, n); }
HWY_INLINE Floats widened(const uint16_t* from, int64_t n) {
  return hn::BitCast(FloatTag(), hn::ShiftLeft<16>(load_halves(from, n)));
}

// The sums of four vectors, in as many steps as one takes alone.
HWY_INLINE void sum_four(Floats a, Floats b, Floats c, Floats d, float* to) {
#if HWY_TARGET == HWY_SCALAR
  to[0] = sum(a), to[1] = sum(b), to[2] = sum(c), to[3] = sum(d);
#else
  const FloatTag f;
  const hn::Repartition<double, FloatTag> pairs;
  const auto half = [&](Floats v, Floats w) HWY_ATTR {
    return hn::BitCast(pairs, hn::Add(hn::InterleaveLower(f, v, w), hn::InterleaveUpper(f, v, w)));
  };
  const auto front = half(a, b), back = half(c, d);
  const Floats sums = hn::Add(hn::BitCast(f, hn::InterleaveLower(pairs, front, back)),
                              hn::BitCast(f, hn::InterleaveUpper(pairs, front, back)));
  alignas(HWY_MAX_BYTES) float lane[HWY_MAX_BYTES / 4];
  hn::Store(sums, f, lane);
  for (int i = 0; i < 4; ++i) {
    float total = lane[i];
    for (int64_t at = i + 4; at < lanes(); at += 4) total += lane[at];
    to[i] = total;
  }
#endif
}

// Output by output, so that a thread reads one stream, a page of which is on its way to the second-level cache. Several
// rows of w at a time, or lines fetched to the first level, read at two thirds of the speed.
template <int kRows, typename Weight>
HWY_NOINLINE void outputs(int64_t n, int64_t k, const float* x, const Weight* w, int64_t begin, int64_t end, float* y) {
  constexpr int64_t kAhead = 4096 / sizeof(Weight);
  constexpr int kParts = kRows <= 4 ? 2 : 1;  // sums at a time, so that none waits for the one before
  for (int64_t o = begin; o < end; ++o) {
    const Weight* row = w + o * k;
    Floats acc[kRows][kParts];
    for (int r = 0; r < kRows; ++r) {
      for (Floats& part : acc[r]) part = splat(0);
    }
    int64_t i = 0;
    const auto add = [&](int part, int64_t valid) HWY_ATTR {
      __builtin_prefetch(row + i + kAhead, /*write=*/0, /*locality=*/2);
      const Floats weight = widened(row + i, valid);
      for (int r = 0; r < kRows; ++r) acc[r][part] = hn::MulAdd(load(x + r * k + i, valid), weight, acc[r][part]);
      i += lanes();
    };
    while (i + kParts * lanes() <= k) {
      for (int part = 0; part < kParts; ++part) add(part, lanes());
    }
    while (i < k) add(0, valid_lanes(i, k));
    if constexpr (kParts == 2) {
      for (int r = 0; r < kRows; ++r) acc[r][0] = hn::Add(acc[r][0], acc[r][1]);
    }
    int r = 0;
    for (float four[4]; r + 4 <= kRows; r += 4) {
      sum_four(acc[r][0], acc[r + 1][0], acc[r + 2][0], acc[r + 3][0], four);
      for (int j = 0; j < 4; ++j) y[(r + j) * n + o] = four[j];
    }
    for (; r < kRows; ++r) y[r * n + o] = sum(acc[r][0]);
  }
}

template <typename Weight>
HWY_INLINE void products(int64_t m, int64_t n, int64_t k, const float* x, const Weight* w, int64_t begin, int64_t end,
                         float* y) {
  switch (m) {
    case 1: return outputs<1>(n, k, x, w, begin, end, y);
    case 2: return outputs<2>(n, k, x, w, begin, end, y);
    case 3: return outputs<3>(n, k, x, w, begin, end, y);
    case 4: return outputs<4>(n, k, x, w, begin, end, y);
    case 5: return outputs<5>(n, k, x, w, begin, end, y);
    case 6: return outputs<6>(n, k, x, w, begin, end, y);
    case 7: return outputs<7>(n, k, x, w, begin, end, y);
    default: return outputs<8>(n, k, x, w, begin, end, y);
  }
}

// More than eight rows: a few outputs' weights stay in the cache while all rows take them.
template <typename Weight>
HWY_INLINE void in_groups(int64_t m, int64_t n, int64_t k, const float* x, const Weight* w, int64_t begin, int64_t end,
                          float* y) {
  constexpr int64_t kGroup = 8, kOutputs = 8;
  if (m <= kGroup) return products(m, n, k, x, w, begin, end, y);
  for (int64_t o = begin; o < end; o += kOutputs) {
    for (int64_t r = 0; r < m; r += kGroup) {
      products(std::min(kGroup, m - r), n, k, x + r * k, w, o, std::min(end, o + kOutputs), y + r * n);
    }
  }
}

void Gemv(int64_t m, int64_t n, int64_t k, const float* x, const float* w, int64_t begin, int64_t end, float* y) {
  in_groups(m, n, k, x, w, begin, end, y);
}

void GemvHalf(int64_t m, int64_t n, int64_t k, const float* x, const uint16_t* w, int64_t begin, int64_t end,
              float* y) {
  in_groups(m, n, k, x, w, begin, end, y);
}

}  // namespace HWY_NAMESPACE
}  // namespace engram
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram {

HWY_EXPORT(Gemv);
HWY_EXPORT(GemvHalf);

void gemv(int64_t m, int64_t n, int64_t k, const float* x, const float* w, int64_t begin, int64_t end, float* y) {
  HWY_DYNAMIC_DISPATCH(Gemv)(m, n, k, x, w, begin, end, y);
}

void gemv(int64_t m, int64_t n, int64_t k, const float* x, const uint16_t* w, int64_t begin, int64_t end, float* y) {
  HWY_DYNAMIC_DISPATCH(GemvHalf)(m, n, k, x, w, begin, end, y);
}

void few_rows_product(int64_t m, int64_t n, int64_t k, const float* x, const float* columns, const float* w,
                      int64_t begin, int64_t end, float* y) {
  if (!takes_columns(m, k)) return gemv(m, n, k, x, w, begin, end, y);
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
