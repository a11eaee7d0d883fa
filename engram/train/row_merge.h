// Adds the gradients that several ranks have for the same rows, pairwise in the order of ranks.
#pragma once
#include <cstdint>
#include <span>

namespace engram {

struct RowMergeShape {
  std::span<const int64_t> counts;  // of each rank: how many gradients it sent
  std::span<const int64_t> index;   // of each gradient, in the order of ranks: its row in the result
  int64_t dim = 0;
};

// gradients [index.size(), dim], a rank's rows distinct; used as scratch. sums [rows, dim]: each row gets the sum of
// its gradients in the order of dist/pairwise_sum.h, in which a rank without one counts as zero. REQUIRES: index covers
// 0 .. rows - 1.
void merge_rows(const RowMergeShape& shape, float* gradients, float* sums);

}  // namespace engram
