// RowShard: the rows of one table that this rank owns (dist/partition.h): it answers who asks for them, adds what comes
// back and updates them.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <span>
#include <vector>

#include "engram/dist/exact_sum.h"
#include "engram/dist/partition.h"
#include "engram/model/memory/row_deduplicator.h"
#include "engram/train/row_sparse_adam.h"

namespace engram {

// The distinct rows among some ids, by owner.
struct DistinctRows {
  std::vector<int64_t> rows;            // an owner's in first-seen order
  std::vector<int64_t> counts, begins;  // of each owner
  torch::Tensor index;                  // [ids] int64: the place of each in `rows`
};

// Not thread-safe. Throws c10::Error on ids that are not the table's.
class RowShard {
 public:
  // rows [partition.count(rank), d_row] fp32 or bf16 on the CPU, in the order of RowPartition::local().
  RowShard(const RowPartition& partition, int rank, torch::Tensor rows, RowSparseAdamOptions options);

  const RowPartition& partition() const { return partition_; }
  const torch::Tensor& rows() const { return rows_; }
  const RowSparseAdam& adam() const { return adam_; }

  DistinctRows distinct(std::span<const int64_t> row_ids);  // of the whole table
  // ids [n] that a rank asks for, which must be of rows here, become local numbers; out [n, d_row] gets the rows.
  void answer(torch::Tensor ids, torch::Tensor out) const;
  // parts[r]: rank r's gradients of the rows that it asked for, used as scratch; `asked`: those of all ranks, in their
  // order, as local numbers. A row's gradients are added pairwise in the order of ranks. Returns the sum of the squares
  // of the sums.
  ExactSum collect_gradient(std::span<const int64_t> asked, std::span<const std::span<float>> parts);
  int64_t touched_rows() const { return ids_.defined() ? ids_.numel() : 0; }  // of the last collect_gradient()
  // LearningTable's.
  void apply_gradient(double lr, double scale);

 private:
  RowPartition partition_;
  int rank_;
  torch::Tensor rows_;
  RowSparseAdam adam_;
  RowDeduplicator deduplicator_, merger_;
  std::vector<int64_t> unique_, index_;  // scratch
  torch::Tensor ids_;                    // [M] distinct local numbers
  torch::Tensor gradient_;               // [M, d_row], collected
};

}  // namespace engram
