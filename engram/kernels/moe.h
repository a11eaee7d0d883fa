// Routed SwiGLU experts in fp32, expert by expert over the rows that chose it.
//
// An assignment is a (token, choice) pair, numbered token * k + choice. Grouping sorts assignments by expert and keeps
// their order within one, so every sum has a fixed order: results do not depend on the number of threads.
//   expert e:  row_out = down[e] * (silu(gate[e] x) * (up[e] x));   y[token] = sum_j weight[token, j] * row_out
// A pass handles a range of experts (or tokens) of tensors given whole, so that a caller splits them over threads.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "engram/core/status.h"

namespace engram {

struct MoeShape {
  int64_t tokens = 0;
  int64_t dim = 0;
  int64_t width = 0;  // of one expert
  int64_t experts = 0;
  int64_t choices = 0;  // k

  int64_t assignments() const { return tokens * choices; }
};

struct MoeGroups {
  std::vector<int64_t> offsets;      // [experts + 1], rows of expert e are [offsets[e], offsets[e + 1])
  std::vector<int64_t> assignments;  // [tokens * k], by expert
};

// The k largest of every row of scores [rows, experts], the largest first; of equal ones the first. NaN is the least.
// REQUIRES: k <= experts.
void choose_largest(const float* scores, int64_t rows, int64_t experts, int64_t k, int64_t* index);

// kOutOfRange: an expert index outside [0, experts).
Result<MoeGroups> group_by_expert(const int64_t* topk_index, const MoeShape& shape);

// The experts of task i of n: consecutive, about the same number of rows each.
std::pair<int64_t, int64_t> expert_range(const MoeGroups& groups, int64_t task, int64_t tasks);

// Contiguous; nothing is owned.
struct MoeInput {
  const float* x = nullptr;            // [N, d]
  const float* gate_up = nullptr;      // [E, 2f, d], gate rows first
  const float* down = nullptr;         // [E, d, f]
  const float* topk_weight = nullptr;  // [N, k]
};

//   inner  [N * k, 2f]  out, by expert: gate and up before SwiGLU, kept for the backward pass
//   rows   [N * k, d]   out, by assignment
void moe_forward(const MoeShape& shape, const MoeGroups& groups, const MoeInput& input, int64_t expert_begin,
                 int64_t expert_end, float* inner, float* rows);

//   dgate_up, ddown    out, the experts of the range (zeros for an expert without rows)
//   dx_rows [N * k, d] out, by assignment;  dtopk_weight [N, k] out
struct MoeGradients {
  float* gate_up = nullptr;
  float* down = nullptr;
  float* x_rows = nullptr;
  float* topk_weight = nullptr;
};
void moe_backward(const MoeShape& shape, const MoeGroups& groups, const MoeInput& input, const float* inner,
                  const float* dy, int64_t expert_begin, int64_t expert_end, const MoeGradients& out);

// out[n] = sum_j weight[n, j] * rows[n * k + j] for the tokens [begin, end); without weights (null) a plain sum.
void moe_combine(const MoeShape& shape, const float* rows, const float* topk_weight, int64_t begin, int64_t end,
                 float* out);

// The oracle of the forward pass: token by token in double.
void moe_plain(const MoeShape& shape, const MoeInput& input, const int64_t* topk_index, float* y);

}  // namespace engram
