// ShardedTable: a LearningTable whose rows lie with all ranks, block-cyclic (dist/partition.h). No rank holds the
// table.
//
// submit() asks each owner once for each distinct row; the rows come back while the model computes. A gradient goes the
// same way back. The owner adds the ranks' gradients of a row pairwise in the order of ranks and updates it there, so
// the bits are those of one process whose micro-batches these were.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engram/dist/communicator.h"
#include "engram/dist/partition.h"
#include "engram/model/memory/row_deduplicator.h"
#include "engram/train/learning_table.h"
#include "engram/train/row_sparse_adam.h"

namespace engram {

// submit(), collect_gradient() and the streamed tensors are exchanges: all ranks call them in the same order (row ids
// may be empty). They throw ExchangeFailed.
class ShardedTable : public LearningTable {
 public:
  // rows [count(rank), d_row] fp32 or bf16 on the CPU: those of this rank, in the order of RowPartition::local().
  ShardedTable(Communicator& ranks, const RowPartition& partition, torch::Tensor rows, RowSparseAdamOptions options);

  std::unique_ptr<MemoryRead> submit(std::span<const int64_t> row_ids, bool overlap = true) override;
  ExactSum collect_gradient(torch::Tensor gradient) override;
  int64_t asked_rows() const override { return std::ssize(unique_); }
  int64_t touched_rows() const override { return own_ids_.defined() ? own_ids_.numel() : 0; }
  void apply_gradient(double lr, double scale) override;

  int64_t num_rows() const override { return partition_.rows(); }
  int64_t row_dim() const override { return rows_.size(1); }
  StreamedTensor stored_rows() override { return as_fp32(streamed("rows", rows_)); }
  std::vector<StreamedTensor> stored_state() override;

 private:
  StreamedTensor streamed(std::string name, const torch::Tensor& local);
  std::vector<int64_t> exchange_counts(const std::vector<int64_t>& counts);
  void check_asked(std::span<const int64_t> ids) const;
  std::vector<int64_t> counts_by_rank(int64_t begin, int64_t end) const;

  Communicator& ranks_;
  RowPartition partition_;
  torch::Tensor rows_;
  RowSparseAdam adam_;
  RowDeduplicator deduplicator_, merger_;
  // The last submit(): what this rank asked, by owner, and what it was asked for, by asker.
  std::vector<int64_t> unique_, index_, asked_of_, asked_by_;
  std::vector<int64_t> asked_rows_;  // local numbers, of all askers
  std::vector<int64_t> own_, own_index_;
  torch::Tensor own_ids_;   // [M] distinct local numbers
  torch::Tensor gradient_;  // [M, d_row], collected
};

}  // namespace engram
