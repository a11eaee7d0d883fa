// MemorySource: the rows of one memory layer, wherever they are. Training, evaluation, serving and the lab ask for rows
// here and nowhere else; a memory of another kind is one more implementation.
//
// submit() starts, wait() ends, rows() gives what the model takes. A source that learns (train/learning_table.h) takes
// gradients back through the leaf that it gave.
//   ResidentTable, ConstantTable (here)  memory of this process; one row for all
//   StoredTable (stored_table.h)         a tier of engram/store: DRAM, page cache, drive, caches
//   TrainableTable (train/)              rows that learn, and the controls of studies in front of them
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engram/core/status.h"
#include "engram/store/stats.h"

namespace engram {

// Rows as the model takes them.
struct MemoryRows {
  // [U, d_row], among them every row that was asked for; a leaf with a gradient when it trains.
  torch::Tensor unique_rows;
  // [B, T, R] int64, positions in unique_rows; flat [n] from a MemoryRead. Undefined: unique_rows [n, d_row] stand in
  // the order of the ids.
  torch::Tensor index;
  // [n, d_row], in the order of the ids.
  torch::Tensor in_order() const;
};

// Rows under way; waits when destroyed. One thread. The source outlives it.
class MemoryRead {
 public:
  virtual ~MemoryRead() = default;
  virtual bool done() const { return true; }
  // Until the rows are here. Once. kDataLoss: a page that cannot be read.
  virtual Status wait() { return {}; }
  // REQUIRES: wait() was ok.
  virtual MemoryRows rows() = 0;
};

class MemorySource {
 public:
  virtual ~MemorySource() = default;
  // row_ids [n] of this layer: any order, repeats allowed, copied. Throws c10::Error on an id outside the table.
  // overlap false: nothing needs to go on beside the model, so on a GPU the model's own stream copies.
  virtual std::unique_ptr<MemoryRead> submit(std::span<const int64_t> row_ids, bool overlap = true) = 0;
  // Hint that these rows may be asked for. Returns at once.
  virtual void prefetch(std::span<const int64_t> /*row_ids*/) {}

  virtual int64_t num_rows() const = 0;
  virtual int64_t row_dim() const = 0;
  // For traces and counters: the tier that would serve each row now, and what a store has counted.
  virtual std::vector<std::string> tiers(std::span<const int64_t> row_ids) const;
  virtual std::optional<StoreStats> stats() const { return std::nullopt; }
  virtual int64_t bytes_per_row() const { return 0; }  // that a read moves from a store

  // submit() and wait() in one, with index [batch, length, R]. Throws c10::Error with the read's error.
  MemoryRows gather(std::span<const int64_t> row_ids, int64_t batch, int64_t length);
};

// `flat` of a read as [batch, length, R]. Throws c10::Error where the numbers do not fit.
MemoryRows shaped(MemoryRows flat, int64_t batch, int64_t length);
// A read that is over.
std::unique_ptr<MemoryRead> ready(MemoryRows rows);

// Read-only. Immutable: submit() may be called from several threads.
class ResidentTable : public MemorySource {
 public:
  explicit ResidentTable(torch::Tensor rows);  // [num_rows, d_row] fp32 (or bf16: rows are widened when read), CPU
  std::unique_ptr<MemoryRead> submit(std::span<const int64_t> row_ids, bool overlap = true) override;
  int64_t num_rows() const override { return rows_.size(0); }
  int64_t row_dim() const override { return rows_.size(1); }

 private:
  torch::Tensor rows_;
};

// Every id reads the same row, .1 in each column: what the arithmetic costs without the reads.
class ConstantTable : public MemorySource {
 public:
  ConstantTable(int64_t num_rows, int64_t row_dim) : num_rows_(num_rows), row_dim_(row_dim) {}
  std::unique_ptr<MemoryRead> submit(std::span<const int64_t> row_ids, bool overlap = true) override;
  int64_t num_rows() const override { return num_rows_; }
  int64_t row_dim() const override { return row_dim_; }
  std::vector<std::string> tiers(std::span<const int64_t> row_ids) const override;

 private:
  int64_t num_rows_, row_dim_;
};

}  // namespace engram
