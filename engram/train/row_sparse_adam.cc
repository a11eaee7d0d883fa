#include "engram/train/row_sparse_adam.h"

#include "engram/kernels/row_adam.h"
#include "engram/model/ops/parallel.h"

namespace engram {

RowSparseAdam::RowSparseAdam(const torch::Tensor& table, const RowSparseAdamOptions& options) : options_(options) {
  const torch::NoGradGuard no_grad;
  exp_avg_ = torch::zeros_like(table);
  exp_avg_sq_ = options.row_wise ? torch::zeros({table.size(0)}, table.options()) : torch::zeros_like(table);
  steps_ = torch::zeros({table.size(0)}, table.options().dtype(torch::kInt32));
}

void RowSparseAdam::update(torch::Tensor& table, const torch::Tensor& row_ids, const torch::Tensor& gradient,
                           double lr) {
  TORCH_CHECK(gradient.dim() == 2 && gradient.size(0) == row_ids.numel() && gradient.size(1) == table.size(1),
              "row gradient: got ", gradient.sizes(), ", wanted [", row_ids.numel(), ", ", table.size(1), "]");
  if (!table.device().is_cpu()) return update_plain(table, row_ids, gradient, lr);
  RowAdamState state;
  state.table = table.data_ptr<float>();
  state.m = exp_avg_.data_ptr<float>();
  state.v = exp_avg_sq_.data_ptr<float>();
  state.steps = reinterpret_cast<uint32_t*>(steps_.data_ptr<int32_t>());
  state.dim = table.size(1);
  RowAdamOptions options;
  options.lr = static_cast<float>(lr);
  options.beta1 = static_cast<float>(options_.beta1);
  options.beta2 = static_cast<float>(options_.beta2);
  options.eps = static_cast<float>(options_.eps);
  options.row_wise = options_.row_wise;
  const torch::Tensor dense = gradient.contiguous();
  const int64_t* ids = row_ids.data_ptr<int64_t>();
  const float* grad = dense.data_ptr<float>();
  parallel_ranges(row_ids.numel(), /*grain=*/512, [&](int64_t begin, int64_t end) {
    row_adam(state, ids + begin, grad + begin * state.dim, end - begin, options);
  });
}

void RowSparseAdam::update_plain(torch::Tensor& table, const torch::Tensor& row_ids, const torch::Tensor& gradient,
                                 double lr) {
  const torch::NoGradGuard no_grad;
  const double beta1 = options_.beta1, beta2 = options_.beta2;
  const torch::Tensor steps = steps_.index_select(0, row_ids) + 1;
  steps_.index_copy_(0, row_ids, steps);
  const torch::Tensor t = steps.to(torch::kFloat64);
  const torch::Tensor step_size = (lr / (1 - at::pow(beta1, t))).to(torch::kFloat32).unsqueeze(1);
  const torch::Tensor v_scale = (1 - at::pow(beta2, t)).rsqrt().to(torch::kFloat32).unsqueeze(1);

  const torch::Tensor m = exp_avg_.index_select(0, row_ids).mul_(beta1).add_(gradient, 1 - beta1);
  exp_avg_.index_copy_(0, row_ids, m);
  torch::Tensor square = gradient * gradient;
  if (options_.row_wise) square = square.mean(1);
  torch::Tensor v = exp_avg_sq_.index_select(0, row_ids).mul_(beta2).add_(square, 1 - beta2);
  exp_avg_sq_.index_copy_(0, row_ids, v);
  if (options_.row_wise) v = v.unsqueeze(1);
  table.index_add_(0, row_ids, m / (v.sqrt() * v_scale + options_.eps) * step_size, -1);
}

std::vector<std::pair<std::string, torch::Tensor>> RowSparseAdam::state() const {
  return {{"exp_avg", exp_avg_}, {"exp_avg_sq", exp_avg_sq_}, {"steps", steps_}};
}

}  // namespace engram
