// EngramTable: rows for a batch of row ids, wherever they are. The model sees only MemoryRows.
//
// gather() de-duplicates: a row that occurs many times in the batch appears once in unique_rows, so its gradient
// arrives already summed in unique_rows.grad(), and host, device and sharded tables look alike to the model.
// ResidentTable (here) is read-only memory for evaluation and generation; TrainableTable (train/) adds an optimiser.
#pragma once
#include <torch/torch.h>

#include <cstdint>
#include <span>
#include <vector>

#include "engram/core/status.h"

namespace engram {

struct MemoryRows {
  torch::Tensor unique_rows;  // [U, d_row] fp32, a leaf; requires_grad when it trains
  torch::Tensor index;        // [B, T, R] int64, positions in unique_rows
};

class EngramTable {
 public:
  virtual ~EngramTable() = default;
  // row_ids [B*T*R] of one layer, any order, repeats allowed. Throws c10::Error on an id outside the table.
  virtual MemoryRows gather(std::span<const int64_t> row_ids, int64_t batch, int64_t length) = 0;
  virtual int64_t num_rows() const = 0;
  virtual int64_t row_dim() const = 0;
};

// De-duplicates ids in first-seen order with a stamp per table row: O(n), no sort, no hash map. Reused across calls.
class RowDeduplicator {
 public:
  explicit RowDeduplicator(int64_t num_rows) : slot_of_row_(static_cast<size_t>(num_rows), -1) {}
  // unique [U] and index [n] are resized; ids must lie in [0, num_rows), else c10::Error.
  void run(std::span<const int64_t> row_ids, std::vector<int64_t>& unique, std::vector<int64_t>& index);

 private:
  std::vector<int32_t> slot_of_row_;  // -1 outside run()
};

class ResidentTable : public EngramTable {
 public:
  explicit ResidentTable(torch::Tensor rows);  // [num_rows, d_row] fp32 (or bf16: rows are widened when gathered), CPU
  MemoryRows gather(std::span<const int64_t> row_ids, int64_t batch, int64_t length) override;
  int64_t num_rows() const override { return rows_.size(0); }
  int64_t row_dim() const override { return rows_.size(1); }

 private:
  torch::Tensor rows_;
  RowDeduplicator deduplicator_;
};

}  // namespace engram
