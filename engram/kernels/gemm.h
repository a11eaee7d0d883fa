// A small fp32 matrix product for one thread: C = A * B, or C += A * B.
//
// Made for products with a short inner dimension and a few dozen columns (an expert's rows, one vocabulary panel),
// where a library call costs as much as its arithmetic. Strided A covers A and its transpose without a copy; B's rows
// are contiguous. A sum over k runs in ascending order in one accumulator, so results depend on the inputs alone.
#pragma once
#include <cstdint>

namespace engram {

struct StridedMatrix {
  const float* data = nullptr;
  int64_t row_stride = 0;
  int64_t column_stride = 1;
};

//   a [m, k] strided;  b [k, n] with rows b_stride apart;  c [m, n] with rows c_stride apart
// accumulate: adds to c, which otherwise is written only. k = 0 gives zeros (or leaves c).
void gemm(int64_t m, int64_t n, int64_t k, const StridedMatrix& a, const float* b, int64_t b_stride, float* c,
          int64_t c_stride, bool accumulate);
void gemm_plain(int64_t m, int64_t n, int64_t k, const StridedMatrix& a, const float* b, int64_t b_stride, float* c,
                int64_t c_stride, bool accumulate);

// out [columns, rows] = in [rows, columns] transposed; rows of in are contiguous, rows of out are out_stride apart.
void transpose(const float* in, int64_t rows, int64_t columns, float* out, int64_t out_stride);

}  // namespace engram
