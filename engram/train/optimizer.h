// Optimizer: Muon for the matrices of the blocks, AdamW for everything else, as model/io/parameter_groups.h divides
// them.
//
// Table rows are not included: TrainableTable applies its own gradient.
#pragma once
#include <torch/torch.h>

#include <string>
#include <utility>
#include <vector>

#include "engram/model/transformer.h"
#include "engram/train/adamw.h"
#include "engram/train/muon.h"
#include "engram/train/recipe.h"

namespace engram {

using NamedTensors = std::vector<std::pair<std::string, torch::Tensor>>;

// Not thread-safe. Keeps references to the model's parameters.
class Optimizer {
 public:
  Optimizer(const TransformerImpl& model, const OptimizerRecipe& recipe);
  // One update at both learning rates times `multiplier` (schedule_multiplier()).
  void step(double multiplier);
  void zero_grad();                              // gradients become undefined: backward then writes instead of adding
  std::vector<torch::Tensor> gradients() const;  // the defined ones
  // Everything a checkpoint needs; the tensors are the state itself.
  NamedTensors state() const;

 private:
  OptimizerRecipe recipe_;
  std::vector<torch::Tensor> parameters_;
  Muon muon_;
  AdamW adamw_;
};

// Scales all gradients so that their global 2-norm is at most max_norm (0: leaves them) and returns the norm before.
// The arithmetic of torch.nn.utils.clip_grad_norm_.
double clip_gradients(const std::vector<torch::Tensor>& gradients, double max_norm);

}  // namespace engram
