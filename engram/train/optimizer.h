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
  // The gradient of every parameter, in the model's order, undefined where there is none; afterwards none has one, so
  // that the next backward writes instead of adding.
  std::vector<torch::Tensor> take_gradients();
  // What step() uses. REQUIRES: as many as take_gradients() gives.
  void set_gradients(const std::vector<torch::Tensor>& gradients);
  // Everything a checkpoint needs; the tensors are the state itself.
  NamedTensors state() const;

 private:
  OptimizerRecipe recipe_;
  std::vector<torch::Tensor> parameters_;
  Muon muon_;
  AdamW adamw_;
};

// Of each gradient the sum of its squares (0 for an undefined one): the norm in fp32, squared in double.
std::vector<double> gradient_squares(const std::vector<torch::Tensor>& gradients);
// The factor that brings a 2-norm to max_norm at most (0: no bound), as torch.nn.utils.clip_grad_norm_ has it.
double clip_scale(double norm, double max_norm);
// Multiplies all that are defined.
void scale_gradients(const std::vector<torch::Tensor>& gradients, double scale);

}  // namespace engram
