#include "engram/train/one_row_table.h"

namespace engram {

MemoryRows OneRowTable::gather(std::span<const int64_t> row_ids, int64_t batch, int64_t length) {
  const int64_t positions = batch * length;
  TORCH_CHECK(positions > 0 && static_cast<int64_t>(row_ids.size()) % positions == 0, "one-row table: got ",
              row_ids.size(), " row ids, wanted a multiple of batch x length = ", batch, " x ", length);
  const int64_t rows_per_token = static_cast<int64_t>(row_ids.size()) / positions;
  heads_.resize(row_ids.size());
  for (size_t i = 0; i < heads_.size(); ++i) heads_[i] = static_cast<int64_t>(i) % rows_per_token;
  return table_->gather(heads_, batch, length);
}

}  // namespace engram
