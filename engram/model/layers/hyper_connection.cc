#include "engram/model/layers/hyper_connection.h"

#include <cmath>

#include "engram/model/layers/norm.h"

namespace engram {
namespace {

constexpr double kLean = 0.3;           // the stream a sub-layer leans towards has pre = (1 + kLean) / n
constexpr double kCombDiagonal = 0.95;  // what a stream keeps of itself across a sub-layer

double logit(double p) { return std::log(p / (1.0 - p)); }

// (fn u) * r: the norm is a factor per token, so it is applied after the product.
torch::Tensor mixed_streams(const torch::Tensor& streams_Nnd, const torch::Tensor& fn, double norm_eps) {
  torch::Tensor u = at_least_float(streams_Nnd.flatten(1));
  return at::linear(u, fn.to(u.scalar_type())) * torch::rsqrt(u.square().mean(-1, /*keepdim=*/true) + norm_eps);
}

// sum_i weight_i x_i as one small matrix product per token.
torch::Tensor weighted_sum(const torch::Tensor& weight_Nn, const torch::Tensor& streams_Nnd) {
  return at::matmul(weight_Nn.to(streams_Nnd.scalar_type()).unsqueeze(1), streams_Nnd).squeeze(1);
}

}  // namespace

HyperMix hyper_mix_plain(const torch::Tensor& streams_Nnd, const torch::Tensor& fn, const torch::Tensor& base,
                         const torch::Tensor& scale, const HyperOptions& options) {
  const int64_t n = options.streams;
  const double eps = options.eps;
  auto mixes = mixed_streams(streams_Nnd, fn, options.norm_eps).split_with_sizes({n, n, n * n}, -1);
  auto bases = base.split_with_sizes({n, n, n * n}, -1);
  auto scales = scale.unbind(0);
  torch::Tensor pre = (mixes[0] * scales[0] + bases[0]).sigmoid() + eps;
  torch::Tensor post = (mixes[1] * scales[1] + bases[1]).sigmoid() * 2;
  torch::Tensor comb = (mixes[2] * scales[2] + bases[2]).view({-1, n, n}).softmax(-1) + eps;
  comb = comb / (comb.sum(-2, /*keepdim=*/true) + eps);
  for (int i = 1; i < options.iterations; ++i) {
    comb = comb / (comb.sum(-1, /*keepdim=*/true) + eps);
    comb = comb / (comb.sum(-2, /*keepdim=*/true) + eps);
  }
  return {weighted_sum(pre, streams_Nnd), at::cat({pre, post, comb.flatten(1)}, -1)};
}

torch::Tensor hyper_merge_plain(const torch::Tensor& coefficients_NK, const torch::Tensor& streams_Nnd,
                                const torch::Tensor& output_Nd) {
  const auto dtype = streams_Nnd.scalar_type();
  const int64_t n = streams_Nnd.size(1);
  return hyper_post(coefficients_NK, n).to(dtype).unsqueeze(-1) * output_Nd.to(dtype).unsqueeze(1) +
         at::matmul(hyper_comb(coefficients_NK, n).to(dtype).transpose(1, 2), streams_Nnd);
}

torch::Tensor hyper_post(const torch::Tensor& coefficients_NK, int64_t streams) {
  return coefficients_NK.narrow(1, streams, streams);
}

torch::Tensor hyper_comb(const torch::Tensor& coefficients_NK, int64_t streams) {
  return coefficients_NK.narrow(1, 2 * streams, streams * streams).unflatten(1, {streams, streams});
}

HyperConnectionImpl::HyperConnectionImpl(const ModelConfig& c, int sub_layer)
    : options_{c.hc_mult, c.hc_sinkhorn_iters, c.hc_eps, c.rms_norm_eps} {
  const int64_t n = c.hc_mult, mixes = (2 + n) * n;
  const double share = 1.0 / static_cast<double>(n), others = static_cast<double>(n - 1);
  torch::Tensor pre = torch::full({n}, logit(share * (1 - kLean / others) - c.hc_eps));
  pre[sub_layer % n] = logit(share * (1 + kLean) - c.hc_eps);
  torch::Tensor comb = torch::eye(n) * std::log(kCombDiagonal * others / (1 - kCombDiagonal));
  fn_ = register_parameter("fn", torch::zeros({mixes, n * c.hidden_size}));
  base_ = register_parameter("base", torch::cat({pre, torch::zeros({n}), comb.view({-1})}));
  scale_ = register_parameter("scale", torch::ones({3}));
}

HyperMix HyperConnectionImpl::mix(const torch::Tensor& streams_Nnd) {
  NoAutocast fp32;
  return hyper_mix(streams_Nnd, fn_, base_, scale_, options_);
}

torch::Tensor HyperConnectionImpl::merge(const HyperMix& mix, const torch::Tensor& streams_Nnd,
                                         const torch::Tensor& output_Nd) {
  NoAutocast fp32;
  return hyper_merge(mix.coefficients_NK, streams_Nnd, output_Nd);
}

HyperHeadImpl::HyperHeadImpl(const ModelConfig& c) : hc_eps_(c.hc_eps), norm_eps_(c.rms_norm_eps) {
  const int64_t n = c.hc_mult;
  fn_ = register_parameter("hc_fn", torch::zeros({n, n * c.hidden_size}));
  base_ = register_parameter("hc_base", torch::full({n}, logit(1.0 / static_cast<double>(n) - hc_eps_)));
  scale_ = register_parameter("hc_scale", torch::ones({1}));
}

torch::Tensor HyperHeadImpl::forward(const torch::Tensor& streams_Nnd) {
  NoAutocast fp32;
  torch::Tensor gate = (mixed_streams(streams_Nnd, fn_, norm_eps_) * scale_ + base_).sigmoid() + hc_eps_;
  return weighted_sum(gate, streams_Nnd);
}

}  // namespace engram
