#include "engram/model/engram_table.h"

#include <limits>

namespace engram {

void RowDeduplicator::run(std::span<const int64_t> row_ids, std::vector<int64_t>& unique, std::vector<int64_t>& index) {
  const int64_t num_rows = static_cast<int64_t>(slot_of_row_.size());
  TORCH_CHECK(row_ids.size() <= static_cast<size_t>(std::numeric_limits<int32_t>::max()), "engram table: got ",
              row_ids.size(), " row ids in one call, wanted at most 2^31 - 1");
  unique.clear();
  index.resize(row_ids.size());
  int64_t bad_id = -1;
  bool bad = false;
  for (size_t i = 0; i < row_ids.size(); ++i) {
    const int64_t id = row_ids[i];
    if (id < 0 || id >= num_rows) {
      bad = true;
      bad_id = id;
      break;
    }
    int32_t& slot = slot_of_row_[static_cast<size_t>(id)];
    if (slot < 0) {
      slot = static_cast<int32_t>(unique.size());
      unique.push_back(id);
    }
    index[i] = slot;
  }
  for (int64_t id : unique) slot_of_row_[static_cast<size_t>(id)] = -1;
  TORCH_CHECK(!bad, "engram table: got row id ", bad_id, ", wanted 0 <= id < ", num_rows, " (the table's rows)");
}

ResidentTable::ResidentTable(torch::Tensor rows) : rows_(std::move(rows)), deduplicator_(0) {
  TORCH_CHECK(rows_.dim() == 2 && rows_.is_cpu(), "resident table: got a tensor of ", rows_.dim(), " dimensions on ",
              rows_.device(), ", wanted [num_rows, d_row] on the CPU");
  TORCH_CHECK(rows_.scalar_type() == torch::kFloat || rows_.scalar_type() == torch::kBFloat16, "resident table: got ",
              rows_.scalar_type(), ", wanted float32 or bfloat16");
  rows_ = rows_.detach().contiguous();
  deduplicator_ = RowDeduplicator(rows_.size(0));
}

MemoryRows ResidentTable::gather(std::span<const int64_t> row_ids, int64_t batch, int64_t length) {
  const int64_t positions = batch * length;
  TORCH_CHECK(batch > 0 && length > 0 && static_cast<int64_t>(row_ids.size()) % positions == 0, "resident table: got ",
              row_ids.size(), " row ids, wanted a multiple of batch x length = ", batch, " x ", length);
  std::vector<int64_t> unique, index;
  deduplicator_.run(row_ids, unique, index);
  const int64_t rows_per_token = static_cast<int64_t>(row_ids.size()) / positions;
  torch::Tensor ids = torch::from_blob(unique.data(), {static_cast<int64_t>(unique.size())}, torch::kLong);
  MemoryRows out;
  out.unique_rows = rows_.index_select(0, ids).to(torch::kFloat);
  out.index = torch::tensor(index, torch::kLong).view({batch, length, rows_per_token});
  return out;
}

}  // namespace engram
