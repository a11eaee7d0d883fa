#include "engram/train/trainable_table.h"

#include <cmath>
#include <numbers>

#include "engram/core/mix.h"
#include "engram/model/ops/parallel.h"

namespace engram {

TrainableTable::TrainableTable(torch::Tensor rows, torch::Device model_device, const RowSparseAdamOptions& options)
    : rows_(std::move(rows)), model_device_(model_device), adam_(rows_, options), deduplicator_(rows_.size(0)) {
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
  torch::Tensor unique_rows;
  {
    const torch::NoGradGuard no_grad;
    unique_rows = rows_.index_select(0, unique_ids_).to(model_device_, torch::kFloat32);
  }
  unique_rows.requires_grad_(torch::GradMode::is_enabled());
  return ready({std::move(unique_rows), std::move(index)});
}

ExactSum TrainableTable::collect_gradient(torch::Tensor gradient) {
  const torch::NoGradGuard no_grad;
  gradient_ = gradient.defined() ? gradient.to(rows_.device(), torch::kFloat32).contiguous() : torch::Tensor();
  ExactSum squares;
  if (!gradient_.defined()) return squares;
  if (gradient_.is_cpu()) {
    squares.add_squares(gradient_.const_data_ptr<float>(), gradient_.numel());
  } else {  // a device sums in its own order
    squares.add(gradient_.to(torch::kFloat64).square().sum().item<double>());
  }
  return squares;
}

void TrainableTable::apply_gradient(double lr, double scale) {
  const torch::NoGradGuard no_grad;
  if (!gradient_.defined()) return;
  if (scale != 1) gradient_.mul_(scale);
  adam_.update(rows_, unique_ids_, gradient_, lr);
  gradient_.reset();
}

std::vector<StreamedTensor> TrainableTable::stored_state() {
  std::vector<StreamedTensor> state;
  for (auto& [name, tensor] : adam_.state()) state.push_back(whole_tensor(name, tensor));
  return state;
}

void draw_table_rows(uint64_t seed, int layer, int64_t first_row, double range, float* out, int64_t n,
                     int64_t row_dim) {
  const uint64_t stream = splitmix64(splitmix64(seed) + static_cast<uint64_t>(layer));
  parallel_ranges(n, /*grain=*/1024, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      uint64_t state = splitmix64(stream + static_cast<uint64_t>(first_row + i));
      // In (0, 1]: the logarithm of 0 is none.
      const auto uniform = [&state] {
        return static_cast<double>((mix_bits(state += 0x9E3779B97F4A7C15u) >> 11) + 1) * 0x1p-53;
      };
      for (int64_t column = 0; column < row_dim; column += 2) {  // Box and Muller: two normal numbers at a time
        const double radius = range * std::sqrt(-2 * std::log(uniform())), angle = 2 * std::numbers::pi * uniform();
        float* pair = out + i * row_dim + column;
        pair[0] = static_cast<float>(radius * std::cos(angle));
        if (column + 1 < row_dim) pair[1] = static_cast<float>(radius * std::sin(angle));
      }
    }
  });
}

}  // namespace engram
