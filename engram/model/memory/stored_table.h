// StoredTable: a memory layer's rows in a tier of engram/store, decoded for the model.
//
// A model on a GPU gets its rows without waiting for the GPU. Another thread reads them into pinned memory; a second
// CUDA stream copies and decodes; the model's stream waits on an event before it uses the rows.
#pragma once
#include <torch/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engram/kernels/row_format.h"
#include "engram/model/memory/memory_source.h"
#include "engram/store/row_store.h"

namespace engram {

// Immutable; threads may share one.
class StoredTable : public MemorySource {
 public:
  // Rows come in `dtype` on `device`; on the CPU in fp32. staging: the stream of copies and decoding, none on the CPU.
  StoredTable(std::unique_ptr<RowStore> store, const RowFormat& format, torch::Device device, torch::Dtype dtype,
              std::optional<c10::Stream> staging);
  std::unique_ptr<MemoryRead> submit(std::span<const int64_t> row_ids, bool overlap = true) override;
  void prefetch(std::span<const int64_t> row_ids) override { store_->prefetch(row_ids); }
  int64_t num_rows() const override { return store_->num_rows(); }
  int64_t row_dim() const override { return format_.width; }
  std::vector<std::string> tiers(std::span<const int64_t> row_ids) const override;
  std::optional<StoreStats> stats() const override { return store_->stats(); }
  int64_t bytes_per_row() const override { return format_.row_bytes(); }
  RowStore& store() const { return *store_; }

 private:
  class Read;
  torch::Tensor decode_on_host(const torch::Tensor& bytes) const;
  torch::Tensor decode_on_device(const torch::Tensor& bytes, bool overlap) const;

  std::unique_ptr<RowStore> store_;
  RowFormat format_;
  torch::Device device_;
  torch::Dtype dtype_;
  std::optional<c10::Stream> staging_;
};

}  // namespace engram
