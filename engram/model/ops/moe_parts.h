// The parts of moe_experts, for experts that lie with several ranks (layers/expert_exchange.cc). They use all threads.
// Internal to engram/model.
#pragma once
#include <torch/types.h>

#include "engram/kernels/moe.h"

namespace engram::internal {

// kernels/moe.h, group_by_expert. Throws on an index that is out of range.
MoeGroups group_choices(const torch::Tensor& topk_index, const MoeShape& shape);

// Rows [A, d] by assignment, without their weights. `inner` is kept for expert_gradients().
void expert_rows(const MoeShape& shape, const MoeGroups& groups, const MoeInput& input, float* inner, float* rows);
void expert_gradients(const MoeShape& shape, const MoeGroups& groups, const MoeInput& input, const float* inner,
                      const float* dy, const MoeGradients& out);

// The forward pass of a few tokens, whose time is that of reading the active experts' weights. Its sums have another
// order.
bool are_few(int64_t tokens);  // and no gradient can be asked for
void few_expert_rows(const MoeShape& shape, const MoeGroups& groups, const MoeInput& input, float* rows);

// Sums each token's rows [N * k, d], times their weights where there are such, to [N, d].
torch::Tensor combine_rows(const MoeShape& shape, const torch::Tensor& rows, const torch::Tensor& topk_weight);

}  // namespace engram::internal
