#include "engram/kernels/gemm_bf16.h"

#include <bit>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace engram {
namespace {

// Round to nearest even, as the hardware does.
uint32_t bf16_bits(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

}  // namespace

uint32_t bf16_word(float low, float high) { return bf16_bits(high) << 16 | bf16_bits(low); }

void gemm_bf16_plain(int64_t m, int64_t n, int64_t k, const StridedWords& a, const uint32_t* b, int64_t b_stride,
                     float* c, int64_t c_stride, bool accumulate) {
  auto low = [](uint32_t word) { return double{std::bit_cast<float>(word << 16)}; };
  auto high = [](uint32_t word) { return double{std::bit_cast<float>(word & 0xffff0000u)}; };
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t j = 0; j < n; ++j) {
      double total = accumulate ? c[r * c_stride + j] : 0;
      for (int64_t i = 0; i < k; ++i) {
        const uint32_t x = a.data[r * a.row_stride + i * a.column_stride], y = b[i * b_stride + j];
        total += low(x) * low(y) + high(x) * high(y);
      }
      c[r * c_stride + j] = static_cast<float>(total);
    }
  }
}

#if defined(__x86_64__)

// Highway 1.0 has no bf16 dot product, hence intrinsics here and nowhere else.
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")
namespace {

constexpr int kRows = 6;
constexpr int64_t kLanes = 16;

__mmask16 first_lanes(int64_t n) { return static_cast<__mmask16>(n >= kLanes ? 0xffff : (1u << n) - 1); }

// As gemm.cc: kTileRows x kVectors accumulators stay in registers; the mask covers the last vector's valid lanes.
template <int kTileRows, int kVectors>
inline __attribute__((always_inline)) void tile(int64_t k, const StridedWords& a, const uint32_t* b, int64_t b_stride,
                                                float* c, int64_t c_stride, __mmask16 mask, bool accumulate) {
  __m512 acc[kTileRows][kVectors];
  for (int r = 0; r < kTileRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      const __mmask16 valid = v + 1 < kVectors ? __mmask16{0xffff} : mask;
      acc[r][v] = accumulate ? _mm512_maskz_loadu_ps(valid, c + r * c_stride + v * kLanes) : _mm512_setzero_ps();
    }
  }
  for (int64_t i = 0; i < k; ++i) {
    __m512bh columns[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const __mmask16 valid = v + 1 < kVectors ? __mmask16{0xffff} : mask;
      columns[v] = reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi32(valid, b + i * b_stride + v * kLanes));
    }
    const uint32_t* a_column = a.data + i * a.column_stride;
    for (int r = 0; r < kTileRows; ++r) {
      const auto scale = reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(a_column[r * a.row_stride])));
      for (int v = 0; v < kVectors; ++v) acc[r][v] = _mm512_dpbf16_ps(acc[r][v], scale, columns[v]);
    }
  }
  for (int r = 0; r < kTileRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      const __mmask16 valid = v + 1 < kVectors ? __mmask16{0xffff} : mask;
      _mm512_mask_storeu_ps(c + r * c_stride + v * kLanes, valid, acc[r][v]);
    }
  }
}

template <int kVectors>
void strip(int64_t m, int64_t k, const StridedWords& a, const uint32_t* b, int64_t b_stride, float* c, int64_t c_stride,
           __mmask16 mask, bool accumulate) {
  StridedWords rows = a;
  int64_t r = 0;
  for (; r + kRows <= m; r += kRows) {
    rows.data = a.data + r * a.row_stride;
    tile<kRows, kVectors>(k, rows, b, b_stride, c + r * c_stride, c_stride, mask, accumulate);
  }
  for (; r < m; ++r) {
    rows.data = a.data + r * a.row_stride;
    tile<1, kVectors>(k, rows, b, b_stride, c + r * c_stride, c_stride, mask, accumulate);
  }
}

void gemm_avx512(int64_t m, int64_t n, int64_t k, const StridedWords& a, const uint32_t* b, int64_t b_stride, float* c,
                 int64_t c_stride, bool accumulate) {
  int64_t column = 0;
  for (; column + 4 * kLanes <= n; column += 4 * kLanes) {
    strip<4>(m, k, a, b + column, b_stride, c + column, c_stride, 0xffff, accumulate);
  }
  for (; column < n; column += kLanes) {
    strip<1>(m, k, a, b + column, b_stride, c + column, c_stride, first_lanes(n - column), accumulate);
  }
}

}  // namespace
#pragma GCC pop_options

bool bf16_gemm_supported() {
  static const bool supported = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
                                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return supported;
}

void gemm_bf16(int64_t m, int64_t n, int64_t k, const StridedWords& a, const uint32_t* b, int64_t b_stride, float* c,
               int64_t c_stride, bool accumulate) {
  gemm_avx512(m, n, k, a, b, b_stride, c, c_stride, accumulate);
}

#else

bool bf16_gemm_supported() { return false; }

void gemm_bf16(int64_t m, int64_t n, int64_t k, const StridedWords& a, const uint32_t* b, int64_t b_stride, float* c,
               int64_t c_stride, bool accumulate) {
  gemm_bf16_plain(m, n, k, a, b, b_stride, c, c_stride, accumulate);
}

#endif

}  // namespace engram
