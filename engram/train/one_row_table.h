// OneRowTable: the capacity-1 control. Every head reads one row whatever the text says, so the memory holds its
// projections, gates and convolution but no content.
#pragma once
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "engram/model/memory/memory_source.h"

namespace engram {

// Not thread-safe. Of the table below, rows 0 .. R-1 are read: one for each head.
class OneRowTable : public MemorySource {
 public:
  OneRowTable(std::unique_ptr<MemorySource> table, int rows_per_token)
      : table_(std::move(table)), rows_per_token_(rows_per_token) {}
  std::unique_ptr<MemoryRead> submit(std::span<const int64_t> row_ids, bool overlap = true) override;
  int64_t num_rows() const override { return table_->num_rows(); }
  int64_t row_dim() const override { return table_->row_dim(); }

 private:
  std::unique_ptr<MemorySource> table_;
  int rows_per_token_;
  std::vector<int64_t> heads_;
};

}  // namespace engram
