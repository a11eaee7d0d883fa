#include "engram/kernels/gemm_bf16.h"

namespace engram {

bool bf16_gemm_supported() { return false; }

void gemm_bf16(int64_t m, int64_t n, int64_t k, const StridedWords& a, const uint32_t* b, int64_t b_stride, float* c,
               int64_t c_stride, bool accumulate) {
  gemm_bf16_plain(m, n, k, a, b, b_stride, c, c_stride, accumulate);
}

}  // namespace engram
