#include "engram/train/one_row_table.h"

namespace engram {

std::unique_ptr<MemoryRead> OneRowTable::submit(std::span<const int64_t> row_ids, bool overlap) {
  heads_.resize(row_ids.size());
  for (size_t i = 0; i < heads_.size(); ++i) heads_[i] = static_cast<int64_t>(i) % rows_per_token_;
  return table_->submit(heads_, overlap);
}

}  // namespace engram
