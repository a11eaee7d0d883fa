// Optimizer: Muon for the matrices of the blocks, AdamW for everything else, as model/io/parameter_groups.h divides
// them.
//
// Among several ranks each parameter, or each row of a large one, has one owner (gradient_exchange.h), which adds its
// gradients, keeps its state and updates it. Table rows are not included: a LearningTable applies its own gradient.
#pragma once
#include <torch/types.h>

#include <string>
#include <utility>
#include <vector>

#include "engram/dist/communicator.h"
#include "engram/dist/exact_sum.h"
#include "engram/model/io/parameter_groups.h"
#include "engram/model/io/streamed_tensor.h"
#include "engram/train/adamw.h"
#include "engram/train/gradient_exchange.h"
#include "engram/train/muon.h"
#include "engram/train/recipe.h"

namespace engram {

// Not thread-safe. Keeps references to the model's parameters.
class Optimizer {
 public:
  Optimizer(Communicator& ranks, const std::vector<ParameterInfo>& parameters, const OptimizerRecipe& recipe);
  // The way of gradients to their owners and of weights back, which goes on beside other work.
  GradientExchange& exchange() { return exchange_; }
  // One update at both learning rates times `multiplier` (schedule_multiplier()), with the gradients of
  // exchange().finish_sum(). Other ranks' weights are here after exchange().finish_return().
  void step(const std::vector<torch::Tensor>& gradients, double multiplier);
  // Everything a checkpoint needs.
  std::vector<StreamedTensor> stored_state();

 private:
  Optimizer(Communicator& ranks, const std::vector<ParameterInfo>& parameters, const OptimizerRecipe& recipe,
            const std::vector<ExchangedParameter>& exchanged);

  Communicator& ranks_;
  OptimizerRecipe recipe_;
  GradientExchange exchange_;
  std::vector<torch::Tensor> own_;  // of each parameter what is updated here; undefined: nothing
  std::vector<Muon> muons_;         // one for each group of matrices that returns together
  AdamW adamw_;
  // Of Muon's and AdamW's parameters, in their order: the first row of each rank (spread_tensor.h).
  std::vector<std::vector<int64_t>> matrix_rows_, vector_rows_;
};

// The sum of the squares of all that are defined. On the CPU it does not depend on how they are divided among ranks;
// elsewhere each gradient's norm is formed in fp32 and squared in double.
ExactSum gradient_squares(const std::vector<torch::Tensor>& gradients);
// The factor that brings a 2-norm to max_norm at most (0: no bound), as torch.nn.utils.clip_grad_norm_ has it.
double clip_scale(double norm, double max_norm);
// Multiplies all that are defined.
void scale_gradients(const std::vector<torch::Tensor>& gradients, double scale);

}  // namespace engram
