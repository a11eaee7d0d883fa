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

// De-duplicates ids in first-seen order, through a hash table of one call's ids: its memory, at most 256 bytes an id,
// grows with the largest batch and not with the table. Reused across calls; one thread.
class RowDeduplicator {
 public:
  explicit RowDeduplicator(int64_t num_rows) : num_rows_(num_rows) {}
  // unique [U] and index [n] are resized; ids must lie in [0, num_rows), else c10::Error.
  void run(std::span<const int64_t> row_ids, std::vector<int64_t>& unique, std::vector<int64_t>& index);

 private:
  struct Entry {
    uint32_t position = 0;  // in unique
    uint32_t call = 0;      // which put it there; entries of other calls are free
  };
  int64_t num_rows_;
  uint32_t call_ = 0;
  std::vector<Entry> entries_;
};

// Immutable: gather() may be called from several threads.
class ResidentTable : public EngramTable {
 public:
  explicit ResidentTable(torch::Tensor rows);  // [num_rows, d_row] fp32 (or bf16: rows are widened when gathered), CPU
  MemoryRows gather(std::span<const int64_t> row_ids, int64_t batch, int64_t length) override;
  int64_t num_rows() const override { return rows_.size(0); }
  int64_t row_dim() const override { return rows_.size(1); }

 private:
  torch::Tensor rows_;
};

}  // namespace engram
