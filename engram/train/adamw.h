// AdamW: one fused pass over all parameters that Muon does not take (torch.optim.AdamW's arithmetic; its fused kernel).
//
// One step counter serves all parameters: they get a gradient in every step. State: exp_avg and exp_avg_sq each.
#pragma once
#include <torch/types.h>

#include <string>
#include <utility>
#include <vector>

#include "engram/train/recipe.h"

namespace engram {

// Defaults are the recipe's.
struct AdamWOptions {
  double beta1 = OptimizerRecipe().adamw_beta1, beta2 = OptimizerRecipe().adamw_beta2;
  double eps = OptimizerRecipe().adamw_eps;
  double weight_decay = OptimizerRecipe().weight_decay;
};

struct AdamWParameter {
  std::string name;
  torch::Tensor parameter;
  bool decays = true;  // false: no weight decay (norms, biases)
  bool owned = true;   // false: another rank updates it, and its state here is a shape (a meta tensor)
  double lr_factor = 1;
};

// Not thread-safe. Keeps references to the parameters; reads their gradients in step().
class AdamW {
 public:
  AdamW(std::vector<AdamWParameter> parameters, const AdamWOptions& options);
  // A parameter without a gradient (unused in an ablation) is left alone.
  void step(double lr);
  // Name and tensor of everything a checkpoint needs; the tensors are the state itself.
  std::vector<std::pair<std::string, torch::Tensor>> state() const;

 private:
  std::vector<AdamWParameter> parameters_;
  std::vector<torch::Tensor> exp_avg_, exp_avg_sq_;
  torch::Tensor steps_;  // fp32 scalar, as the fused kernel needs it
  AdamWOptions options_;
};

}  // namespace engram
