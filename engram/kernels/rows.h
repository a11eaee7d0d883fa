// Table rows by index: gather, and the scatter-add that is its gradient. Small fp32 rows, a few floats each.
//
// Ranges let a caller split the work over threads; sums run in ascending order of the index for any split.
#pragma once
#include <cstdint>

namespace engram {

// out[i] = rows[index[i]] for i in [begin, end);  rows [count, width], out [.., width].
// The caller has checked every index against [0, count).
void gather_rows(const float* rows, int64_t width, const int64_t* index, int64_t begin, int64_t end, float* out);

// out[r] = sum of gradient[i] over i < size with index[i] == r, for the rows r in [row_begin, row_end); zeros where
// none.
void scatter_add_rows(const float* gradient, int64_t width, const int64_t* index, int64_t size, int64_t row_begin,
                      int64_t row_end, float* out);

void gather_rows_plain(const float* rows, int64_t width, const int64_t* index, int64_t begin, int64_t end, float* out);
void scatter_add_rows_plain(const float* gradient, int64_t width, const int64_t* index, int64_t size, int64_t row_begin,
                            int64_t row_end, float* out);

}  // namespace engram
