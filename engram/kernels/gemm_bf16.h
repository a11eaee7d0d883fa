// The bf16 sibling of gemm.h: factors in bf16, sums in fp32, twice the arithmetic per instruction.
//
// A 32-bit word holds two neighbours along k, the first in the low half; so k counts words. Only on CPUs with
// AVX512_BF16; elsewhere bf16_gemm_supported() is false and the function must not be called. With AMX, tiles of 16 x 16
// sums go through it; their rounding may differ from AVX512_BF16's in the last place. b's layout is that of AMX's
// second factor (Intel 64 and IA-32 Architectures Software Developer's Manual, TDPBF16PS).
#pragma once
#include <cstdint>

namespace engram {

struct StridedWords {
  const uint32_t* data = nullptr;
  int64_t row_stride = 0;
  int64_t column_stride = 1;
};

bool bf16_gemm_supported();

//   a [m, k] strided words;  b [k, n] words with rows b_stride apart;  c [m, n] fp32 with rows c_stride apart
// accumulate: adds to c, which otherwise is written only.
void gemm_bf16(int64_t m, int64_t n, int64_t k, const StridedWords& a, const uint32_t* b, int64_t b_stride, float* c,
               int64_t c_stride, bool accumulate);
// The oracle, on any CPU.
void gemm_bf16_plain(int64_t m, int64_t n, int64_t k, const StridedWords& a, const uint32_t* b, int64_t b_stride,
                     float* c, int64_t c_stride, bool accumulate);

// Two floats to one word, rounded to nearest even.
uint32_t bf16_word(float low, float high);

}  // namespace engram
