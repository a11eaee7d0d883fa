#include "engram/train/row_merge.h"

#include <algorithm>
#include <vector>

namespace engram {
namespace {

struct Part {
  int64_t block;  // of ranks, whose sum this is: the rank, halved at each level
  float* values;
};

}  // namespace

void merge_rows(const RowMergeShape& shape, float* sums) {
  const int64_t rows = shape.index.empty() ? 0 : *std::ranges::max_element(shape.index) + 1;
  // The parts of each row one after another, in the order of ranks.
  std::vector<int64_t> ends(static_cast<size_t>(rows) + 1);
  for (const int64_t row : shape.index) ++ends[static_cast<size_t>(row) + 1];
  for (size_t row = 1; row < ends.size(); ++row) ends[row] += ends[row - 1];
  std::vector<Part> parts(shape.index.size());
  std::vector<int64_t> next(ends.begin(), ends.end() - (ends.empty() ? 0 : 1));
  size_t i = 0;
  for (size_t rank = 0; rank < shape.parts.size(); ++rank)
    for (size_t at = 0; at < shape.parts[rank].size(); at += static_cast<size_t>(shape.dim), ++i)
      parts[static_cast<size_t>(next[static_cast<size_t>(shape.index[i])]++)] = {static_cast<int64_t>(rank),
                                                                                 shape.parts[rank].data() + at};

  for (int64_t row = 0; row < rows; ++row) {
    const std::span<Part> own(parts.data() + ends[static_cast<size_t>(row)],
                              parts.data() + ends[static_cast<size_t>(row) + 1]);
    size_t left = own.size();
    while (left > 1) {  // one level of the tree: neighbours of one block of ranks become one part
      size_t out = 0;
      for (size_t in = 0; in < left; ++out) {
        Part sum = own[in++];
        if (in < left && own[in].block / 2 == sum.block / 2) {
          for (int64_t c = 0; c < shape.dim; ++c) sum.values[c] += own[in].values[c];
          ++in;
        }
        sum.block /= 2;
        own[out] = sum;
      }
      left = out;
    }
    std::copy_n(own[0].values, shape.dim, sums + row * shape.dim);
  }
}

}  // namespace engram
