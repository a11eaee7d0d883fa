#include "engram/train/trainable_table.h"

namespace engram {

TrainableTable::TrainableTable(torch::Tensor rows, torch::Device model_device, const RowSparseAdamOptions& options)
    : rows_(std::move(rows)), model_device_(model_device), adam_(rows_, options), deduplicator_(rows_.size(0)) {
  TORCH_CHECK(rows_.dim() == 2 && rows_.scalar_type() == torch::kFloat32 && rows_.is_contiguous(),
              "trainable table: got ", rows_.scalar_type(), " ", rows_.sizes(), ", wanted contiguous fp32 rows");
  rows_.requires_grad_(false);
}

std::unique_ptr<MemoryRead> TrainableTable::submit(std::span<const int64_t> row_ids, bool) {
  deduplicator_.run(row_ids, unique_, index_);
  // Copies: the tensors outlive the next submit().
  const auto copy = [](std::vector<int64_t>& ids, torch::Device device) {
    return torch::from_blob(ids.data(), {std::ssize(ids)}, torch::kInt64)
        .to(device, torch::kInt64, /*non_blocking=*/false, /*copy=*/true);
  };
  unique_ids_ = copy(unique_, rows_.device());
  torch::Tensor index = copy(index_, model_device_);
  {
    const torch::NoGradGuard no_grad;
    unique_rows_ = rows_.index_select(0, unique_ids_).to(model_device_);
  }
  unique_rows_.requires_grad_(torch::GradMode::is_enabled());
  return ready({unique_rows_, std::move(index)});
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
