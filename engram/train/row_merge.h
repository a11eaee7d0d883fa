// Adds the gradients that several ranks have for the same rows, pairwise in the order of ranks.
#pragma once
#include <cstdint>
#include <span>

namespace engram {

struct RowMergeShape {
  std::span<const std::span<float>> parts;  // of each rank: its gradients [n, dim], whose rows are distinct; scratch
  std::span<const int64_t> index;           // of each gradient, in the order of ranks: its row in the result
  int64_t dim = 0;
};

// sums [rows, dim]: each row gets the sum of its gradients in the order of dist/pairwise_sum.h, in which a rank without
// one counts as zero. REQUIRES: index covers 0 .. rows - 1.
void merge_rows(const RowMergeShape& shape, float* sums);

}  // namespace engram
