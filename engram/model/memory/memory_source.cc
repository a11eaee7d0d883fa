#include "engram/model/memory/memory_source.h"

#include <algorithm>

#include "engram/model/ops/ops.h"

namespace engram {
namespace {

class ReadyRead final : public MemoryRead {
 public:
  explicit ReadyRead(MemoryRows rows) : rows_(std::move(rows)) {}
  MemoryRows rows() override { return std::move(rows_); }

 private:
  MemoryRows rows_;
};

}  // namespace

std::unique_ptr<MemoryRead> ready(MemoryRows rows) { return std::make_unique<ReadyRead>(std::move(rows)); }

torch::Tensor MemoryRows::in_order() const {
  if (!index.defined()) return unique_rows;
  return gather_rows(unique_rows, index.reshape({1, -1, 1})).view({-1, unique_rows.size(1)});
}

MemoryRows shaped(MemoryRows flat, int64_t batch, int64_t length) {
  const int64_t count = flat.index.defined() ? flat.index.numel() : flat.unique_rows.size(0);
  TORCH_CHECK(batch > 0 && length > 0 && count % (batch * length) == 0, "memory rows: got ", count,
              " row ids, wanted a multiple of batch x length = ", batch, " x ", length);
  if (!flat.index.defined()) flat.index = torch::arange(count, torch::kLong).to(flat.unique_rows.device());
  flat.index = flat.index.view({batch, length, count / (batch * length)});
  return flat;
}

MemoryRows MemorySource::gather(std::span<const int64_t> row_ids, int64_t batch, int64_t length) {
  const std::unique_ptr<MemoryRead> read = submit(row_ids);
  throw_if_error(read->wait());
  return shaped(read->rows(), batch, length);
}

std::vector<std::string> MemorySource::tiers(std::span<const int64_t> row_ids) const {
  return std::vector<std::string>(row_ids.size(), "resident");
}

ResidentTable::ResidentTable(torch::Tensor rows) : rows_(std::move(rows)) {
  TORCH_CHECK(rows_.dim() == 2 && rows_.is_cpu(), "resident table: got a tensor of ", rows_.dim(), " dimensions on ",
              rows_.device(), ", wanted [num_rows, d_row] on the CPU");
  TORCH_CHECK(rows_.scalar_type() == torch::kFloat || rows_.scalar_type() == torch::kBFloat16, "resident table: got ",
              rows_.scalar_type(), ", wanted float32 or bfloat16");
  rows_ = rows_.detach().contiguous();
}

std::unique_ptr<MemoryRead> ResidentTable::submit(std::span<const int64_t> row_ids, bool) {
  torch::Tensor index = torch::empty({static_cast<int64_t>(row_ids.size())}, torch::kLong);
  std::ranges::copy(row_ids, index.mutable_data_ptr<int64_t>());
  for (int64_t id : row_ids) {
    TORCH_CHECK(id >= 0 && id < num_rows(), "memory rows: got row id ", id, ", wanted 0 <= id < ", num_rows(),
                " (the table's rows)");
  }
  if (rows_.scalar_type() != torch::kFloat) return ready({rows_.index_select(0, index).to(torch::kFloat), {}});
  return ready({rows_, std::move(index)});  // the model reads the table in place
}

std::unique_ptr<MemoryRead> ConstantTable::submit(std::span<const int64_t> row_ids, bool) {
  return ready({torch::full({static_cast<int64_t>(row_ids.size()), row_dim_}, 0.1f), {}});
}

std::vector<std::string> ConstantTable::tiers(std::span<const int64_t> row_ids) const {
  return std::vector<std::string>(row_ids.size(), "constant");
}

}  // namespace engram
