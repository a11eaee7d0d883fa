// Feed-forward networks: dense SwiGLU, and DeepSeekMoE with loss-free balancing.
//
// Both map rows to rows, [N, d] -> [N, d]. The mixture adds a shared expert, which every token uses, to k routed ones:
//   score = sigmoid(W_gate x) per expert, in fp32
//   chosen = the k largest score + e_score_correction_bias; the bias affects only the choice. With n_group > 1 they are
//            of the topk_group groups whose two best experts have the largest sum
//   weight = score of the chosen, divided by their sum (norm_topk_prob), times routed_scaling_factor
// After each optimiser step bias += u * sign(mean load - load) (arXiv 2408.15664), so no auxiliary loss is needed.
// Oracle: transformers deepseek_v3 (tests/parity). Bad shapes throw c10::Error.
//
// Parameters: dense  gate_up_proj [2f, d] (gate rows first), down_proj [d, f]
//             moe    gate.weight [E, d], gate.e_score_correction_bias [E] (a buffer), experts.gate_up [E, 2f, d],
//                    experts.down [E, d, f], shared_experts.* as dense; absent when its width is 0
#pragma once
#include <torch/nn/module.h>

#include <memory>

#include "engram/model/layers/expert_exchange.h"
#include "engram/model/layers/norm.h"
#include "engram/model/model_config.h"

namespace engram {

class FeedForwardImpl : public torch::nn::Module {
 public:
  virtual torch::Tensor forward(const torch::Tensor& x_Nd) = 0;
};

class DenseFfnImpl : public FeedForwardImpl {
 public:
  DenseFfnImpl(int64_t hidden_size, int64_t intermediate_size, double std);
  torch::Tensor forward(const torch::Tensor& x_Nd) override;

 private:
  Linear gate_up_proj_{nullptr}, down_proj_{nullptr};
};

struct Routing {
  torch::Tensor index;   // [N, k] int64
  torch::Tensor weight;  // [N, k] fp32, differentiable in the router's logits
};
struct RoutingOptions {
  int64_t top_k = 1;
  bool normalize = true;
  double scale = 1.0;
  int64_t groups = 1, chosen_groups = 1;
};
// logits [N, E], bias [E]. Each row of index holds k different experts in any order.
Routing route(const torch::Tensor& logits, const torch::Tensor& bias, const RoutingOptions& options);

class MoeImpl : public FeedForwardImpl {
 public:
  // `ranks`, where not null: the routed experts lie with several ranks, which call forward() together. Parameters
  // experts.* are those of this rank.
  explicit MoeImpl(const ModelConfig& config, const ExpertRanks* ranks = nullptr);
  // In training mode also counts how many tokens each expert gets.
  torch::Tensor forward(const torch::Tensor& x_Nd) override;

  // bias += u * sign(mean load - load); counts start again from zero.
  void update_bias(double u);
  // Largest load / mean load since the last update_bias(); 0 before the first token.
  double load_ratio() const;
  // [E] int64: tokens of each expert since the last update_bias(). The counter itself.
  const torch::Tensor& load() const { return load_; }

 private:
  struct GateImpl;
  struct ExpertsImpl;
  RoutingOptions options_;
  std::shared_ptr<GateImpl> gate_;
  std::shared_ptr<ExpertsImpl> experts_;
  std::unique_ptr<ExpertExchange> exchange_;  // null: all experts are here
  std::shared_ptr<DenseFfnImpl> shared_experts_;
  torch::Tensor load_;  // [E] int64
};

std::shared_ptr<FeedForwardImpl> make_feed_forward(const ModelConfig& config, int block, const ExpertRanks* ranks);

}  // namespace engram
