// A product of a few rows with a large matrix: y = x w^T. For decode steps, which take as long as reading w once.
//
// Each output is one dot product in fp32; its sum runs in an order that the number of rows fixes, whatever the threads.
#pragma once
#include <cstdint>

namespace engram {

inline constexpr int64_t kGemvRows = 15;

// Handles the outputs [begin, end) of n.
//   x [m, k], m <= kGemvRows;  w [n, k] fp32, or bf16 widened on the way;  y [m, n]; all contiguous. w is read once.
void gemv(int64_t m, int64_t n, int64_t k, const float* x, const float* w, int64_t begin, int64_t end, float* y);
void gemv(int64_t m, int64_t n, int64_t k, const float* x, const uint16_t* w, int64_t begin, int64_t end, float* y);

// The same for up to kFewRows rows: as gemv, or as the columns of narrow products (gemm.h), which need x transposed.
inline constexpr int64_t kFewRows = 64;
inline bool takes_columns(int64_t m, int64_t k) { return m > kGemvRows || (m > 4 && k < 256); }
//   columns [k, m] where takes_columns(m, k)
void few_rows_product(int64_t m, int64_t n, int64_t k, const float* x, const float* columns, const float* w,
                      int64_t begin, int64_t end, float* y);

}  // namespace engram
