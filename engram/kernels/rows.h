// Table rows by index: gather, and the scatter-add that is its gradient. Small fp32 rows, a few floats each.
//
// Ranges and lists of positions let a caller split the work over threads.
#pragma once
#include <cstdint>

namespace engram {

// out[i] = rows[index[i]] for i in [begin, end);  rows [count, width], out [.., width].
// The caller has checked every index against [0, count).
void gather_rows(const float* rows, int64_t width, const int64_t* index, int64_t begin, int64_t end, float* out);

// out[index[i]] += gradient[i] for the `count` positions i, in their order; null: for all i < count. A caller that
// gives each thread the positions of its own rows, ascending, gets the sums of one thread.
void scatter_add_rows(const float* gradient, int64_t width, const int64_t* index, const int64_t* positions,
                      int64_t count, float* out);

void gather_rows_plain(const float* rows, int64_t width, const int64_t* index, int64_t begin, int64_t end, float* out);
void scatter_add_rows_plain(const float* gradient, int64_t width, const int64_t* index, const int64_t* positions,
                            int64_t count, float* out);

}  // namespace engram
