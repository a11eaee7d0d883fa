// recompute(): a part of a model whose activations are not kept. Its backward pass computes them again.
//
// Values and gradients are those of the part itself, to the bit, and each parameter's gradient arrives once. The price
// is one more forward pass of the part. Autocast is as it was the first time.
#pragma once
#include <torch/types.h>

#include <functional>
#include <vector>

namespace engram {

// Must do the same when it is run again. What it holds lives until the backward pass is over.
using RecomputedPart = std::function<torch::Tensor(const std::vector<torch::Tensor>& inputs)>;

// part(inputs), differentiable in `inputs` and in `parameters`: leaves that it uses by itself, all of those that are
// trained. Gradients of gradients are not there.
torch::Tensor recompute(RecomputedPart part, const std::vector<torch::Tensor>& inputs,
                        const std::vector<torch::Tensor>& parameters);

// While a part is run again on this thread: what counts a forward pass has counted this one.
bool is_recomputing();

}  // namespace engram
