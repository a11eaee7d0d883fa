// TrainingCost: the floating-point operations of a training step, counted from a recipe. Torch-free.
//
// A matrix of n weights costs a token 2 n operations forward, 2 n for the gradient of its input, and 2 n for its own
// gradient. A frozen weight has none of the last. A block has the second when it is trained, or one below it is.
// Scores are counted for half a window, as attention is causal. Norms, the convolution and the optimizer are left out.
#pragma once
#include <cstdint>

#include "engram/train/recipe.h"

namespace engram {

struct TrainingCost {
  double flops_per_token = 0;  // of a position of a window, whether it is a target or not
  int64_t lora = 0;            // parameters of the low-rank changes
};
// REQUIRES: a resolved recipe, its model and lora valid.
TrainingCost count_training_cost(const Recipe& recipe);

}  // namespace engram
