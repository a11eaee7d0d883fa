#include "engram/kernels/gemm_bf16.h"

#include <bit>

#include "engram/kernels/bf16.h"

namespace engram {
uint32_t bf16_word(float low, float high) { return uint32_t{round_to_bf16(high)} << 16 | round_to_bf16(low); }

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

}  // namespace engram
