// Hyper-connections in fp32 (docs/backbone.md): the mix before a sub-layer and the merge after it, in one pass each.
//
// A token's n streams are one row x [n * d]. Its K = (2 + n) * n coefficients are pre [n], post [n] and comb [n, n],
// in this order. The Sinkhorn rounds run across the vector, a token per lane; the backward pass repeats them from
// `mixed` and walks back. Every function handles the rows [begin, end) of tensors given whole, so that a caller splits
// rows over threads; row results do not depend on the split.
#pragma once
#include <cstdint>

namespace engram {

struct HyperShape {
  int64_t streams = 0;  // n
  int64_t dim = 0;      // d
  int iterations = 0;   // Sinkhorn: one column step, then iterations - 1 rounds of rows and columns
  float eps = 0;        // hc_eps
  float norm_eps = 0;

  int64_t row() const { return streams * dim; }
  int64_t mixes() const { return (2 + streams) * streams; }  // K
};

// Parameters: fn [K, n * d]; base [K]; scale [3]. With fn_transposed, [n * d, K], the product is one over all rows, for
// many of them; where it is null each row is multiplied with fn in place, for a few (a decode step).
//   input         [N, d]  out: sum_i pre_i x_i
//   coefficients  [N, K]  out
//   mixed         [N, K]  out: (fn x) / rms(x), kept for the backward pass
//   inv_rms       [N]     out, likewise
void hyper_mix_forward(const HyperShape& shape, const float* x, const float* fn, const float* fn_transposed,
                       const float* base, const float* scale, int64_t begin, int64_t end, float* input,
                       float* coefficients, float* mixed, float* inv_rms);

// What the forward pass saw and left.
struct HyperMixSaved {
  const float* x = nullptr;
  const float* fn = nullptr;  // [K, n * d]
  const float* base = nullptr;
  const float* scale = nullptr;
  const float* coefficients = nullptr;
  const float* mixed = nullptr;
  const float* inv_rms = nullptr;
};
//   dx           [N, n * d]           out
//   dparameters  [K * n * d + K + 3]  the rows' share of dfn, dbase and dscale is added
void hyper_mix_backward(const HyperShape& shape, const HyperMixSaved& saved, const float* dinput,
                        const float* dcoefficients, int64_t begin, int64_t end, float* dx, float* dparameters);

// y [N, n * d]: y_j = post_j * output + sum_i comb[i][j] x_i.
void hyper_merge_forward(const HyperShape& shape, const float* coefficients, const float* x, const float* output,
                         int64_t begin, int64_t end, float* y);

//   dcoefficients  [N, K]  out, the pre part zero
struct HyperMergeGradients {
  float* coefficients = nullptr;
  float* x = nullptr;
  float* output = nullptr;
};
void hyper_merge_backward(const HyperShape& shape, const float* coefficients, const float* x, const float* output,
                          const float* dy, int64_t begin, int64_t end, const HyperMergeGradients& gradients);

}  // namespace engram
