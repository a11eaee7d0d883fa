// ShardedTable: a LearningTable whose rows lie with all ranks, block-cyclic (dist/partition.h). No rank holds the
// table.
//
// Each owner is asked once for each distinct row (row_request.h). A gradient goes the same way back; the owner adds the
// ranks' gradients of a row pairwise in the order of ranks and updates it there, so the bits are those of one process
// whose micro-batches these were.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engram/dist/communicator.h"
#include "engram/train/learning_table.h"
#include "engram/train/row_shard.h"

namespace engram {

// submit() and the streamed tensors are exchanges: all ranks call them in the same order (row ids may be empty). They
// throw ExchangeFailed.
class ShardedTable : public LearningTable {
 public:
  // rows: as RowShard has them.
  ShardedTable(Communicator& ranks, const RowPartition& partition, torch::Tensor rows,
               const RowSparseAdamOptions& options)
      : ranks_(ranks), shard_(partition, ranks.rank(), std::move(rows), options) {}

  std::unique_ptr<MemoryRead> submit(std::span<const int64_t> row_ids, bool overlap = true) override;
  int64_t touched_rows() const override { return shard_.touched_rows(); }
  void apply_gradient(double lr, double scale) override { shard_.apply_gradient(lr, scale); }

  int64_t num_rows() const override { return shard_.partition().rows(); }
  int64_t row_dim() const override { return shard_.rows().size(1); }
  StreamedTensor stored_rows() override { return as_fp32(streamed("rows", shard_.rows())); }
  std::vector<StreamedTensor> stored_state() override;

  RowShard& shard() { return shard_; }

 private:
  // A piece [begin, end) of a streamed tensor: each rank has a run of rows, and rank 0 knows the place of each.
  struct Piece {
    torch::Tensor own;                       // this rank's run
    std::vector<int64_t> of_ranks, of_root;  // rows that rank 0 moves with each rank, and each rank with rank 0
    torch::Tensor place;                     // at rank 0: of each row of the piece, in the runs one after another
  };
  Piece piece(const torch::Tensor& local, int64_t begin, int64_t end) const;
  StreamedTensor streamed(std::string name, const torch::Tensor& local);

  Communicator& ranks_;
  RowShard shard_;
};

}  // namespace engram
