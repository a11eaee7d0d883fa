#include "engram/train/trainable_table.h"

namespace engram {

TrainableTable::TrainableTable(torch::Tensor rows, torch::Device model_device, const RowSparseAdamOptions& options)
    : rows_(std::move(rows)), model_device_(model_device), adam_(rows_, options), deduplicator_(rows_.size(0)) {
  TORCH_CHECK(rows_.dim() == 2 && rows_.scalar_type() == torch::kFloat32 && rows_.is_contiguous(),
              "trainable table: got ", rows_.scalar_type(), " ", rows_.sizes(), ", wanted contiguous fp32 rows");
  rows_.requires_grad_(false);
}

MemoryRows TrainableTable::gather(std::span<const int64_t> row_ids, int64_t batch, int64_t length) {
  const int64_t positions = batch * length;
  TORCH_CHECK(positions > 0 && static_cast<int64_t>(row_ids.size()) % positions == 0, "trainable table: got ",
              row_ids.size(), " row ids, wanted a multiple of batch x length = ", batch, " x ", length);
  deduplicator_.run(row_ids, unique_, index_);
  const auto longs = torch::TensorOptions().dtype(torch::kInt64);
  const int64_t rows_per_token = static_cast<int64_t>(row_ids.size()) / positions;
  // Copies: the tensors outlive the next gather.
  unique_ids_ = torch::from_blob(unique_.data(), {static_cast<int64_t>(unique_.size())}, longs)
                    .to(rows_.device(), torch::kInt64, /*non_blocking=*/false, /*copy=*/true);
  const torch::Tensor index = torch::from_blob(index_.data(), {batch, length, rows_per_token}, longs)
                                  .to(model_device_, torch::kInt64, /*non_blocking=*/false, /*copy=*/true);
  {
    const torch::NoGradGuard no_grad;
    unique_rows_ = rows_.index_select(0, unique_ids_).to(model_device_);
  }
  unique_rows_.requires_grad_(torch::GradMode::is_enabled());
  return {unique_rows_, index};
}

void TrainableTable::apply_gradient(double lr) {
  const torch::NoGradGuard no_grad;
  if (!unique_rows_.defined() || !unique_rows_.grad().defined()) return;
  adam_.update(rows_, unique_ids_, unique_rows_.grad().to(rows_.device(), torch::kFloat32), lr);
  unique_rows_.mutable_grad().reset();
}

void TrainableTable::set_rows(const torch::Tensor& rows) {
  const torch::NoGradGuard no_grad;
  TORCH_CHECK(rows.sizes() == rows_.sizes(), "table rows: got ", rows.sizes(), ", wanted ", rows_.sizes());
  rows_.copy_(rows);
}

torch::Tensor initial_table_rows(int64_t num_rows, int64_t row_dim, double range, torch::Device device) {
  const torch::NoGradGuard no_grad;
  return torch::empty({num_rows, row_dim}, torch::TensorOptions().dtype(torch::kFloat32).device(device))
      .normal_(0, range);
}

}  // namespace engram
