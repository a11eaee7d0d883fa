// ShuffledTable: the shuffled-hash control. The R-tuples of row ids of a batch are permuted over its positions before
// the real table sees them: the same rows are read equally often, but they say nothing about the text any more.
//
// The permutation of a submit() depends on (seed, stream, submits since begin()), so a resumed run repeats it.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "engram/hash/numpy_random.h"
#include "engram/model/memory/memory_source.h"

namespace engram {

// Not thread-safe.
class ShuffledTable : public MemorySource {
 public:
  ShuffledTable(std::unique_ptr<MemorySource> table, int rows_per_token, int64_t seed)
      : table_(std::move(table)), rows_per_token_(rows_per_token), seed_(seed) {}
  // Starts the permutations of `stream`: a training step, or kEvaluation.
  void begin(int64_t stream);
  static constexpr int64_t kEvaluation = 0;  // training steps count from 1

  std::unique_ptr<MemoryRead> submit(std::span<const int64_t> row_ids, bool overlap = true) override;
  int64_t num_rows() const override { return table_->num_rows(); }
  int64_t row_dim() const override { return table_->row_dim(); }

 private:
  std::unique_ptr<MemorySource> table_;
  int rows_per_token_;
  int64_t seed_;
  NumpyRandom random_{0};
  std::vector<int64_t> order_, permuted_;
};

}  // namespace engram
