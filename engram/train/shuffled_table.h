// ShuffledTable: the shuffled-hash control. The R-tuples of row ids of a batch are permuted over its positions before
// the real table sees them: the same rows are read equally often, but they say nothing about the text any more.
//
// The permutation of a gather() depends on (seed, stream, gathers since begin()), so a resumed run repeats it.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "engram/hash/numpy_random.h"
#include "engram/model/memory/engram_table.h"

namespace engram {

// Not thread-safe.
class ShuffledTable : public EngramTable {
 public:
  ShuffledTable(std::unique_ptr<EngramTable> table, int64_t seed) : table_(std::move(table)), seed_(seed) {}
  // Starts the permutations of `stream`: a training step, or kEvaluation.
  void begin(int64_t stream);
  static constexpr int64_t kEvaluation = 0;  // training steps count from 1

  MemoryRows gather(std::span<const int64_t> row_ids, int64_t batch, int64_t length) override;
  int64_t num_rows() const override { return table_->num_rows(); }
  int64_t row_dim() const override { return table_->row_dim(); }

 private:
  std::unique_ptr<EngramTable> table_;
  int64_t seed_;
  NumpyRandom random_{0};
  std::vector<int64_t> order_, permuted_;
};

}  // namespace engram
