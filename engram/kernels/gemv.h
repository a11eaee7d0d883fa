// A product of a few rows with a large matrix, fp32: y = x w^T. For decode steps, which take as long as reading w once.
//
// Each output is one dot product; its sum runs in a fixed order, whatever the rows of the call and the threads.
#pragma once
#include <cstdint>

namespace engram {

inline constexpr int64_t kGemvRows = 4;

// Handles the outputs [begin, end) of n.
//   x [m, k], m <= kGemvRows;  w [n, k];  y [m, n]; all contiguous
void gemv(int64_t m, int64_t n, int64_t k, const float* x, const float* w, int64_t begin, int64_t end, float* y);

// The same for up to kFewRows rows, of which each weight is read once as well: more than kGemvRows of them are the
// columns of narrow products (gemm.h). They need x transposed, columns [k, m]; gemv's do not.
inline constexpr int64_t kFewRows = 64;
void few_rows_product(int64_t m, int64_t n, int64_t k, const float* x, const float* columns, const float* w,
                      int64_t begin, int64_t end, float* y);

}  // namespace engram
