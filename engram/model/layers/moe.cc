#include "engram/model/layers/moe.h"

#include <cmath>
#include <limits>
#include <numeric>

#include "engram/kernels/gemv.h"
#include "engram/kernels/moe.h"
#include "engram/model/ops/ops.h"
#include "engram/model/ops/parallel.h"
#include "engram/model/ops/recompute.h"

namespace engram {

DenseFfnImpl::DenseFfnImpl(int64_t hidden_size, int64_t intermediate_size, double std) {
  gate_up_proj_ = register_module("gate_up_proj", Linear(hidden_size, 2 * intermediate_size, std));
  down_proj_ = register_module("down_proj", Linear(intermediate_size, hidden_size, std));
}

torch::Tensor DenseFfnImpl::forward(const torch::Tensor& x_Nd) { return down_proj_(swiglu(gate_up_proj_(x_Nd))); }

namespace {

// Scores of experts outside each row's best groups become -inf.
torch::Tensor mask_groups(const torch::Tensor& scores, const RoutingOptions& options) {
  const torch::Tensor by_group = scores.view({scores.size(0), options.groups, -1});
  const torch::Tensor best = std::get<1>(std::get<0>(by_group.topk(2)).sum(-1).topk(options.chosen_groups));
  const torch::Tensor refused = torch::ones({scores.size(0), options.groups}, scores.options().dtype(torch::kBool))
                                    .scatter_(1, best, false)
                                    .unsqueeze(-1);
  return by_group.masked_fill(refused, -std::numeric_limits<double>::infinity()).view(scores.sizes());
}

// scores [N, E] to indices [N, k]. torch's topk copies every row into a list of pairs first.
torch::Tensor choose_experts(const torch::Tensor& scores, int64_t k) {
  if (!scores.is_cpu() || scores.scalar_type() != torch::kFloat || k > scores.size(1))
    return std::get<1>(scores.topk(k, -1, /*largest=*/true, /*sorted=*/false));
  const torch::Tensor rows = scores.contiguous();
  torch::Tensor index = torch::empty({rows.size(0), k}, torch::kLong);
  const int64_t experts = rows.size(1);
  const float* from = rows.const_data_ptr<float>();
  int64_t* to = index.mutable_data_ptr<int64_t>();
  parallel_ranges(rows.size(0), /*grain=*/256, [&](int64_t begin, int64_t end) {
    choose_largest(from + begin * experts, end - begin, experts, k, to + begin * k);
  });
  return index;
}

// route() of a step's few tokens, without a dozen tensors.
Routing route_few(const torch::Tensor& logits, const torch::Tensor& bias, const RoutingOptions& options) {
  const int64_t rows = logits.size(0), experts = logits.size(1), k = options.top_k;
  Routing routing{torch::empty({rows, k}, torch::kLong), torch::empty({rows, k})};
  std::vector<float> score(static_cast<size_t>(experts)), biased(score);
  for (int64_t row = 0; row < rows; ++row) {
    const float* from = logits.const_data_ptr<float>() + row * experts;
    int64_t* index = routing.index.mutable_data_ptr<int64_t>() + row * k;
    float* weight = routing.weight.mutable_data_ptr<float>() + row * k;
    for (size_t e = 0; e < score.size(); ++e) {
      score[e] = 1 / (1 + std::exp(-from[e]));
      biased[e] = score[e] + bias.const_data_ptr<float>()[e];
    }
    choose_largest(biased.data(), 1, experts, k, index);
    for (int64_t j = 0; j < k; ++j) weight[j] = score[static_cast<size_t>(index[j])];
    const float sum = options.normalize ? std::accumulate(weight, weight + k, 1e-20f) : 1;
    for (int64_t j = 0; j < k; ++j) weight[j] = weight[j] / sum * static_cast<float>(options.scale);
  }
  return routing;
}

}  // namespace

Routing route(const torch::Tensor& logits, const torch::Tensor& bias, const RoutingOptions& options) {
  if (c10::InferenceMode::is_enabled() && logits.is_cpu() && logits.scalar_type() == torch::kFloat &&
      logits.is_contiguous() && bias.scalar_type() == torch::kFloat && bias.is_contiguous() &&
      logits.size(0) <= kFewRows && options.top_k <= logits.size(1) && options.groups == 1) {
    return route_few(logits, bias, options);
  }
  torch::Tensor score = at_least_float(logits).sigmoid();
  Routing routing;
  const torch::Tensor biased = score.detach() + bias;
  routing.index = choose_experts(options.groups > 1 ? mask_groups(biased, options) : biased, options.top_k);
  routing.weight = score.gather(1, routing.index);
  if (options.normalize) routing.weight = routing.weight / (routing.weight.sum(-1, /*keepdim=*/true) + 1e-20);
  if (options.scale != 1.0) routing.weight = routing.weight * options.scale;
  return routing;
}

struct MoeImpl::GateImpl : torch::nn::Module {
  GateImpl(int64_t experts, int64_t hidden_size, double std) {
    weight = register_parameter("weight", initial_weight({experts, hidden_size}, std));
    e_score_correction_bias = register_buffer("e_score_correction_bias", torch::zeros({experts}));
  }
  torch::Tensor weight, e_score_correction_bias;
};

struct MoeImpl::ExpertsImpl : torch::nn::Module {
  ExpertsImpl(int64_t experts, Range own, int64_t hidden_size, int64_t width, double std) {
    gate_up = register_parameter("gate_up", initial_rows({experts, 2 * width, hidden_size}, std, own));
    down = register_parameter("down", initial_rows({experts, hidden_size, width}, std, own));
  }
  torch::Tensor gate_up, down;
};

MoeImpl::MoeImpl(const ModelConfig& c, const ExpertRanks* ranks)
    : options_{c.num_experts_per_tok, c.norm_topk_prob, c.routed_scaling_factor, c.n_group, c.topk_group},
      load_(torch::zeros({c.n_routed_experts}, torch::kLong)) {
  const double std = c.initializer_range;
  gate_ = register_module("gate", std::make_shared<GateImpl>(c.n_routed_experts, c.hidden_size, std));
  const Range own = ranks != nullptr ? ranks->own_experts(c.n_routed_experts) : Range{0, c.n_routed_experts};
  experts_ = register_module(
      "experts", std::make_shared<ExpertsImpl>(c.n_routed_experts, own, c.hidden_size, c.moe_intermediate_size, std));
  if (ranks != nullptr) exchange_ = std::make_unique<ExpertExchange>(*ranks, c.n_routed_experts);
  if (c.shared_expert_intermediate_size > 0)
    shared_experts_ = register_module(
        "shared_experts", std::make_shared<DenseFfnImpl>(c.hidden_size, c.shared_expert_intermediate_size, std));
}

torch::Tensor MoeImpl::forward(const torch::Tensor& x_Nd) {
  Routing routing;
  {
    // A choice among experts is not a smooth function: in bf16 it would differ from the fp32 one.
    NoAutocast fp32;
    torch::Tensor logits = linear_rows(at_least_float(x_Nd), at_least_float(gate_->weight));
    routing = route(logits, gate_->e_score_correction_bias, options_);
  }
  if (is_training() && !is_recomputing()) {
    if (load_.device() != x_Nd.device()) load_ = load_.to(x_Nd.device());
    load_ += count_choices(routing.index, load_.size(0));
  }
  torch::Tensor y = exchange_ ? exchange_->run(x_Nd, experts_->gate_up, experts_->down, routing.index, routing.weight)
                              : moe_experts(x_Nd, experts_->gate_up, experts_->down, routing.index, routing.weight);
  return shared_experts_ ? y + shared_experts_->forward(x_Nd) : y;
}

void MoeImpl::update_bias(double u) {
  torch::NoGradGuard no_grad;
  torch::Tensor load = load_.to(gate_->e_score_correction_bias.scalar_type());
  gate_->e_score_correction_bias += (load.mean() - load).sign() * u;
  load_.zero_();
}

double MoeImpl::load_ratio() const {
  const double total = load_.sum().item<double>();
  return total == 0 ? 0.0 : load_.max().item<double>() * static_cast<double>(load_.size(0)) / total;
}

std::shared_ptr<FeedForwardImpl> make_feed_forward(const ModelConfig& config, int block, const ExpertRanks* ranks) {
  if (config.is_moe_block(block)) return std::make_shared<MoeImpl>(config, ranks);
  return std::make_shared<DenseFfnImpl>(config.hidden_size, config.intermediate_size, config.initializer_range);
}

}  // namespace engram
