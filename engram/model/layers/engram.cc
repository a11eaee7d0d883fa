#include "engram/model/layers/engram.h"

#include <algorithm>

#include "engram/model/layers/norm.h"
#include "engram/model/paged/paged_ops.h"

namespace engram {

WeightsImpl::WeightsImpl(torch::Tensor initial_weight, torch::Tensor initial_bias) {
  weight = register_parameter("weight", std::move(initial_weight));
  if (initial_bias.defined()) bias = register_parameter("bias", std::move(initial_bias));
}

EngramImpl::EngramImpl(const ModelConfig& config, int layer)
    : block_(config.engram.layer_ids.at(static_cast<size_t>(layer))),
      hidden_size_(config.hidden_size),
      gated_streams_(config.engram_branch_gates ? config.hc_mult : 1),
      memory_dim_(config.engram.memory_dim()),
      keeps_less_one_(config.engram.rule == HashRule::kQwen4Exp) {
  options_.dilation = config.engram.max_ngram_size;
  options_.gate = config.engram_gate;
  if (keeps_less_one_) options_.gate_norm_eps = options_.conv_norm_eps = config.rms_norm_eps;
  const int64_t out = (gated_streams_ + 1) * hidden_size_;
  wkv_ = register_module("wkv", Weights(initial_weight({out, memory_dim_}, config.initializer_range),
                                        config.engram_proj_bias ? torch::zeros({out}) : torch::Tensor()));
  const auto norm = [this] {
    return Weights(torch::full({gated_streams_, hidden_size_}, keeps_less_one_ ? 0.0 : 1.0));
  };
  query_norm_ = register_module("query_norm", norm());
  key_norm_ = register_module("key_norm", norm());
  if (config.engram_conv) {
    conv_norm_ = register_module("conv_norm", norm());
    conv_ = register_module("conv", Weights(torch::zeros({gated_streams_ * hidden_size_, config.engram_kernel_size})));
  }
}

torch::Tensor EngramImpl::norm_weight(const Weights& norm) const {
  if (!norm) return {};
  return keeps_less_one_ ? at_least_float(norm->weight) + 1 : norm->weight;
}

void EngramImpl::train(bool on) {
  torch::nn::Module::train(on);
  const std::lock_guard lock(mutex_);
  folded_ = {};
}

void EngramImpl::silence() {
  const torch::NoGradGuard no_grad;
  wkv_->weight.narrow(0, gated_streams_ * hidden_size_, hidden_size_).zero_();
  if (wkv_->bias.defined()) wkv_->bias.narrow(0, gated_streams_ * hidden_size_, hidden_size_).zero_();
}

torch::Tensor EngramImpl::folded_taps() const {
  if (!conv_ || !conv_->weight.is_cpu()) return {};
  FoldedTaps now;
  const torch::Tensor* const weights[2] = {&conv_norm_->weight, &conv_->weight};
  for (int i = 0; i < 2; ++i) {
    now.weights[i] = weights[i]->const_data_ptr();
    now.versions[i] = weights[i]->is_inference() ? 0 : static_cast<uint32_t>(weights[i]->_version());
  }
  const std::lock_guard lock(mutex_);
  if (!folded_.taps.defined() || !std::ranges::equal(now.weights, folded_.weights) ||
      !std::ranges::equal(now.versions, folded_.versions)) {
    now.taps = fold_taps(norm_weight(conv_norm_), conv_->weight);
    folded_ = now;
  }
  return folded_.taps;
}

torch::Tensor EngramImpl::forward(const torch::Tensor& hidden_BTGd, const MemoryRows& rows,
                                  const torch::Tensor& reach_BT, torch::Tensor* gates) {
  TORCH_CHECK(hidden_BTGd.dim() == 4 && hidden_BTGd.size(2) == gated_streams_ && hidden_BTGd.size(3) == hidden_size_,
              "engram of block ", block_, ": got hidden ", hidden_BTGd.sizes(), ", wanted [B, T, ", gated_streams_,
              ", ", hidden_size_, "]");
  TORCH_CHECK(rows.index.defined() && rows.index.dim() == 3 && rows.index.size(0) == hidden_BTGd.size(0) &&
                  rows.index.size(1) == hidden_BTGd.size(1) &&
                  rows.index.size(2) * rows.unique_rows.size(1) == memory_dim_,
              "engram of block ", block_, ": the rows do not fit hidden ", hidden_BTGd.sizes(),
              " with R * d_row = ", memory_dim_);
  torch::Tensor memory = gather_rows(rows.unique_rows, rows.index);
  torch::Tensor projected = torch::linear(memory, wkv_->weight, wkv_->bias);

  auto [y, alpha] = engram_fuse(hidden_BTGd, projected, norm_weight(query_norm_), norm_weight(key_norm_),
                                norm_weight(conv_norm_), conv_ ? conv_->weight : torch::Tensor(), reach_BT, options_);
  if (is_training()) gate_mean_ = alpha.mean();
  if (gates != nullptr) *gates = alpha;
  return y;
}

torch::Tensor EngramImpl::step(const torch::Tensor& hidden_NGd, const torch::Tensor& memory_Nm, const PagedStep& step,
                               torch::Tensor& cache, torch::Tensor* gates) {
  TORCH_CHECK(memory_Nm.sizes() == torch::IntArrayRef({step.num_tokens(), memory_dim_}), "engram of block ", block_,
              ": got rows ", memory_Nm.sizes(), ", wanted [", step.num_tokens(), ", ", memory_dim_, "]");
  torch::Tensor projected = linear_rows(memory_Nm, wkv_->weight);
  if (wkv_->bias.defined()) projected = projected + wkv_->bias;
  auto [y, alpha] = engram_fuse_paged(hidden_NGd, projected, norm_weight(query_norm_), norm_weight(key_norm_),
                                      norm_weight(conv_norm_), conv_ ? conv_->weight : torch::Tensor(), folded_taps(),
                                      step, cache, options_);
  if (gates != nullptr) *gates = alpha;
  return y;
}

}  // namespace engram
