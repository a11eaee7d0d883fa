// TrainableTable: a LearningTable whose rows are all in this process.
//
// submit() copies the distinct rows of a batch into unique_rows, a leaf that requires a gradient; after backward,
// apply_gradient() gives that gradient to row-sparse Adam for exactly those rows. Memory: rows, optimizer state and
// one stamp per row; never a dense gradient or a copy of the table.
//
// Rows live on the host or on the model's device; ids always come from the host. With rows on the host and the model
// on a device, only the distinct rows travel down and their gradients up.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engram/dist/exact_sum.h"
#include "engram/model/memory/row_deduplicator.h"
#include "engram/train/learning_table.h"
#include "engram/train/row_sparse_adam.h"

namespace engram {

class TrainableTable : public LearningTable {
 public:
  // rows [num_rows, d_row] fp32 or bf16, contiguous, where they shall live; taken over, not copied.
  TrainableTable(torch::Tensor rows, torch::Device model_device, const RowSparseAdamOptions& options);

  std::unique_ptr<MemoryRead> submit(std::span<const int64_t> row_ids, bool overlap = true) override;
  // `gradient` [U, d_row], fp32, of the unique_rows of the last submit(); undefined: none reached them. Returns the sum
  // of its squares.
  ExactSum collect_gradient(torch::Tensor gradient);
  int64_t touched_rows() const override { return unique_ids_.defined() ? unique_ids_.numel() : 0; }
  void apply_gradient(double lr, double scale) override;

  int64_t num_rows() const override { return rows_.size(0); }
  int64_t row_dim() const override { return rows_.size(1); }
  const torch::Tensor& rows() const { return rows_; }
  StreamedTensor stored_rows() override { return as_fp32(whole_tensor("rows", rows_)); }
  std::vector<StreamedTensor> stored_state() override;

 private:
  torch::Tensor rows_;
  torch::Device model_device_;
  RowSparseAdam adam_;
  RowDeduplicator deduplicator_;
  std::vector<int64_t> unique_, index_;
  torch::Tensor unique_ids_;  // [U] on the rows' device
  torch::Tensor gradient_;    // [U, d_row] there, collected
};

// Initial rows: normal with standard deviation `range`. Row r is a function of (seed, layer, r) alone, so whoever keeps
// a part of a table draws just that part. Fills out [n, row_dim], rows first_row .. first_row + n - 1.
void draw_table_rows(uint64_t seed, int layer, int64_t first_row, double range, float* out, int64_t n, int64_t row_dim);

}  // namespace engram
