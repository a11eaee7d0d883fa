// Engram: the conditional memory module (docs/engram.md section 3).
//
// Rows of the n-gram table, already fetched, become one key per residual stream and one value shared by all streams;
// a gate per (token, stream) decides how much of the value is added, and a short depthwise convolution spreads it.
//
//   B batch, T tokens, M residual streams, d hidden width, R rows per token, r row width, w taps, G gated streams
//   G = M; G = 1 with engram_branch_gates = false
// Parameters (checkpoint names: docs/formats/checkpoint.md)
//   wkv.weight          [(G+1)*d, R*r]  keys of streams 0..G-1 first, the value last: G+1 matrices in one product
//   wkv.bias            [(G+1)*d]       only with engram_proj_bias
//   query_norm.weight, key_norm.weight  [G, d]; w - 1 under the rule qwen4exp
//   conv_norm.weight    [G, d]          only with engram_conv; as the other norms
//   conv.weight         [G*d, w]        only with engram_conv; zero at the start, so Y = v; the last tap is newest
// The rule qwen4exp makes this the per-layer embedding of Qwen4Exp: rms_norm_eps in all norms, their weights kept as
// w - 1. engram_gate = false keeps every shape (equal parameters); the keys are not used: alpha = 1.
// In evaluation mode several threads may call forward() and step(); bad shapes throw c10::Error.
#pragma once
#include <torch/nn/module.h>

#include <mutex>

#include "engram/model/memory/memory_source.h"
#include "engram/model/model_config.h"
#include "engram/model/ops/ops.h"
#include "engram/model/paged/paged_cache.h"

namespace engram {

// A module that only holds `weight` (and `bias`): gives a bare parameter a dotted name.
class WeightsImpl : public torch::nn::Module {
 public:
  explicit WeightsImpl(torch::Tensor initial_weight, torch::Tensor initial_bias = {});
  torch::Tensor weight, bias;  // bias undefined when there is none
};
TORCH_MODULE(Weights);

class EngramImpl : public torch::nn::Module {
 public:
  // `layer` is the position in config.engram.layer_ids; messages name its block. Weights come from torch's global RNG.
  EngramImpl(const ModelConfig& config, int layer);

  // Y [B, T, G, d], the residual not added. gates, when given, receives alpha [B, T, G], detached.
  //   hidden_BTGd  the residual streams before the block; with engram_branch_gates = false the one stream that a
  //                pre-mapping made of them
  //   reach_BT     int32: older tokens of the same segment that the convolution may see; -1 at a masked position
  torch::Tensor forward(const torch::Tensor& hidden_BTGd, const MemoryRows& rows, const torch::Tensor& reach_BT,
                        torch::Tensor* gates = nullptr);

  // The same for the new tokens of a step: Y [N, G, d].
  //   memory_Nm  each token's rows side by side, [N, R*r]
  //   cache      PagedCache::memory() of this layer: what the convolution reads of older tokens
  torch::Tensor step(const torch::Tensor& hidden_NGd, const torch::Tensor& memory_Nm, const PagedStep& step,
                     torch::Tensor& cache, torch::Tensor* gates = nullptr);

  void train(bool on = true) override;
  // The value projection becomes zero, so that Y = 0 whatever the rows are.
  void silence();

  int64_t gated_streams() const { return gated_streams_; }  // G

  // Mean of alpha over the last forward in training mode; 0 before the first.
  double gate_mean() const { return gate_mean_.defined() ? gate_mean_.item<double>() : 0.0; }

 private:
  torch::Tensor norm_weight(const Weights& norm) const;  // undefined without a convolution
  torch::Tensor folded_taps() const;

  int block_;
  int64_t hidden_size_, gated_streams_, memory_dim_;
  EngramFuseOptions options_;
  bool keeps_less_one_;  // norm weights are w - 1
  Weights wkv_{nullptr}, query_norm_{nullptr}, key_norm_{nullptr}, conv_norm_{nullptr}, conv_{nullptr};
  torch::Tensor gate_mean_;  // scalar, fetched from the device only when asked for

  // The convolution's taps as step() wants them, kept until its weights change.
  struct FoldedTaps {
    torch::Tensor taps;
    const void* weights[2] = {};
    uint32_t versions[2] = {};
  };
  mutable std::mutex mutex_;  // guards the taps
  mutable FoldedTaps folded_;
};
TORCH_MODULE(Engram);

}  // namespace engram
