// TrainableTable: a MemorySource that learns.
//
// submit() copies the distinct rows of a batch into unique_rows, a leaf that requires a gradient; after backward,
// apply_gradient() gives that gradient to row-sparse Adam for exactly those rows. Memory: rows, optimizer state and
// one stamp per row; never a dense gradient or a copy of the table.
//
// Rows live on the host or on the model's device; ids always come from the host. With rows on the host and the model
// on a device, only the distinct rows travel down and their gradients up.
#pragma once
#include <torch/torch.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engram/model/memory/memory_source.h"
#include "engram/model/memory/row_deduplicator.h"
#include "engram/train/row_sparse_adam.h"

namespace engram {

// Not thread-safe. submit() and apply_gradient() alternate in training; submit() alone evaluates.
class TrainableTable : public MemorySource {
 public:
  // rows [num_rows, d_row] fp32, contiguous, where they shall live; taken over, not copied.
  TrainableTable(torch::Tensor rows, torch::Device model_device, const RowSparseAdamOptions& options);

  std::unique_ptr<MemoryRead> submit(std::span<const int64_t> row_ids, bool overlap = true) override;
  // No gradient: nothing happens.
  void apply_gradient(double lr) override;

  int64_t num_rows() const override { return rows_.size(0); }
  int64_t row_dim() const override { return rows_.size(1); }
  const torch::Tensor& rows() const { return rows_; }
  void set_rows(const torch::Tensor& rows);                          // copies; same shape
  const torch::Tensor& unique_rows() const { return unique_rows_; }  // of the last submit()
  std::vector<std::pair<std::string, torch::Tensor>> optimizer_state() const { return adam_.state(); }

 private:
  torch::Tensor rows_;
  torch::Device model_device_;
  RowSparseAdam adam_;
  RowDeduplicator deduplicator_;
  std::vector<int64_t> unique_, index_;
  torch::Tensor unique_ids_;   // [U] on the rows' device
  torch::Tensor unique_rows_;  // [U, d_row] on the model's device
};

// Initial rows: normal with standard deviation `range`, from torch's global generator.
torch::Tensor initial_table_rows(int64_t num_rows, int64_t row_dim, double range, torch::Device device);

}  // namespace engram
