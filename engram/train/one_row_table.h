// OneRowTable: the capacity-1 control. Every head reads one row whatever the text says, so the memory holds its
// projections, gates and convolution but no content.
#pragma once
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "engram/model/memory/engram_table.h"

namespace engram {

// Not thread-safe. Of the table below, rows 0 .. R-1 are read: one for each head.
class OneRowTable : public EngramTable {
 public:
  explicit OneRowTable(std::unique_ptr<EngramTable> table) : table_(std::move(table)) {}
  MemoryRows gather(std::span<const int64_t> row_ids, int64_t batch, int64_t length) override;
  int64_t num_rows() const override { return table_->num_rows(); }
  int64_t row_dim() const override { return table_->row_dim(); }

 private:
  std::unique_ptr<EngramTable> table_;
  std::vector<int64_t> heads_;
};

}  // namespace engram
