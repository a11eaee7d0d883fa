// The model's operators that are worth fusing: one differentiable function each, the same on every device.
//
// On CPU in fp32 each runs a hand-written kernel (engram/kernels) with its own backward pass; elsewhere (CUDA, double,
// bf16 where no kernel exists) it is composed of libtorch operators. The plain form, *_plain, is public: it is
// the oracle the fused form is tested against, and what gradient checks run in double.
// Shapes: N = B*T tokens, d hidden width, M residual streams, f expert width, E experts, k chosen, V vocabulary.
// All functions throw c10::Error on bad shapes.
#pragma once
#include <torch/types.h>

#include <utility>

namespace engram {

// x * rsqrt(mean(x^2) + eps) * weight over the last dimension; weight is [d], or [M, d] for x [.., M, d].
torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps);
torch::Tensor rms_norm_plain(const torch::Tensor& x, const torch::Tensor& weight, double eps);

// x W^T: [.., k] and weight [n, k] give [.., n]. at::linear, except for up to 64 rows in inference mode (a decode
// step). There kernels read the weight once: at the memory's speed for a few rows (engram/kernels/gemv.h), in narrow
// products for more of them (gemm.h).
torch::Tensor linear_rows(const torch::Tensor& x, const torch::Tensor& weight);

// SiLU(first half) * second half of the last dimension: [.., 2f] -> [.., f].
torch::Tensor swiglu(const torch::Tensor& gate_up);
torch::Tensor swiglu_plain(const torch::Tensor& gate_up);

// Rotary embedding over the last dimension, x [B, T, H, r]; cos, sin [T, r/2].
// interleaved: pairs are (0,1), (2,3), .. (DeepSeek); else (0, r/2), .. (Llama).
torch::Tensor apply_rope(const torch::Tensor& x, const torch::Tensor& cos, const torch::Tensor& sin, bool interleaved);
// The same in place, for the first `heads` of x [N, H, r], contiguous, in a decode step.
void turn_heads(torch::Tensor& x, int64_t heads, const torch::Tensor& cos, const torch::Tensor& sin, bool interleaved);
torch::Tensor apply_rope_plain(const torch::Tensor& x, const torch::Tensor& cos, const torch::Tensor& sin,
                               bool interleaved);

// Mean cross-entropy of softmax(hidden [N, d] @ weight [V, d]^T) against targets [N] int64 (< 0: ignored), in nats.
// Works in chunks of rows: logits of a chunk turn into their gradient in place, so peak memory is one chunk.
// reduction_sum: the sum instead of the mean.
torch::Tensor linear_cross_entropy(const torch::Tensor& hidden, const torch::Tensor& weight,
                                   const torch::Tensor& targets, bool reduction_sum = false);
torch::Tensor linear_cross_entropy_plain(const torch::Tensor& hidden, const torch::Tensor& weight,
                                         const torch::Tensor& targets, bool reduction_sum = false);

// How often each of `experts` occurs in topk_index: [experts] int64. Does not wait for a GPU.
torch::Tensor count_choices(const torch::Tensor& topk_index, int64_t experts);

// Routed SwiGLU experts, grouped by expert: y[n] = sum_j topk_weight[n,j] * expert_{topk_index[n,j]}(x[n]).
//   x [N, d]; gate_up [E, 2f, d] (gate rows first); down [E, d, f]; topk_index [N, k] int64; topk_weight [N, k].
// Differentiable in x, gate_up, down, topk_weight.
torch::Tensor moe_experts(const torch::Tensor& x, const torch::Tensor& gate_up, const torch::Tensor& down,
                          const torch::Tensor& topk_index, const torch::Tensor& topk_weight);
torch::Tensor moe_experts_plain(const torch::Tensor& x, const torch::Tensor& gate_up, const torch::Tensor& down,
                                const torch::Tensor& topk_index, const torch::Tensor& topk_weight);

// unique_rows [U, r], index [B, T, R] int64 -> [B, T, R*r]; the gradient is scattered back with sums.
torch::Tensor gather_rows(const torch::Tensor& unique_rows, const torch::Tensor& index);
torch::Tensor gather_rows_plain(const torch::Tensor& unique_rows, const torch::Tensor& index);

// The Engram module after its projection (docs/engram.md section 3): gates, value, convolution.
//   hidden          [B, T, M, d]
//   projected       [B, T, (M+1)*d]  keys 0..M-1 first, value last
//   query_norm, key_norm, conv_norm  [M, d]   norm weights
//   conv_weight     [M*d, w]  depthwise taps, the last is the newest token; undefined: no convolution, Y = v
//   reach           [B, T] int32: how many older tokens of the same segment are visible (0 at a document start or
//                   just after a masked position); -1 at a masked position (v = 0, Y = 0). Undefined: position index.
// Returns Y [B, T, M, d] and the gates alpha [B, T, M] (detached).
struct EngramFuseOptions {
  int64_t dilation = 3;
  double gate_norm_eps = 1.1920928955078125e-07;
  double conv_norm_eps = 1e-5;
  bool gate = true;  // false: alpha = 1 (ablation)
};
std::pair<torch::Tensor, torch::Tensor> engram_fuse(const torch::Tensor& hidden, const torch::Tensor& projected,
                                                    const torch::Tensor& query_norm, const torch::Tensor& key_norm,
                                                    const torch::Tensor& conv_norm, const torch::Tensor& conv_weight,
                                                    const torch::Tensor& reach, const EngramFuseOptions& options);
std::pair<torch::Tensor, torch::Tensor> engram_fuse_plain(const torch::Tensor& hidden, const torch::Tensor& projected,
                                                          const torch::Tensor& query_norm,
                                                          const torch::Tensor& key_norm, const torch::Tensor& conv_norm,
                                                          const torch::Tensor& conv_weight, const torch::Tensor& reach,
                                                          const EngramFuseOptions& options);

}  // namespace engram
