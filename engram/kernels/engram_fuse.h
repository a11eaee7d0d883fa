// The Engram module's gates, value, convolution and sum in fp32, forward and backward, without temporaries.
//
// Per token t and stream m, with key_m and value from the projection (norm(x) = x * rsqrt(mean(x^2) + eps) * weight):
// clang-format off
//   score = <key_norm(key_m), query_norm(hidden_m)> / sqrt(d)
//   alpha = sigmoid(sign(score) * sqrt(max(|score|, 1e-6)))
//   v     = alpha * value
//   z     = sum over taps of tap * conv_norm(v at t - age * dilation)
//   y     = v + z * sigmoid(z)
// clang-format on
// conv_norm(v) is value * (alpha * inv_value) * weight, so the convolution reads the value rows of older tokens and
// one float each; nothing of size [B, T, M, d] is kept between the passes.
// A tap of age a is visible when a * dilation <= min(reach, t); reach -1 masks the token: alpha = 0, y = 0.
//
// Each pass handles the tokens [begin, end) of B * T, tensors given whole, so that a caller splits tokens over
// threads. A pass reads what the one before wrote for other tokens: finish one over all tokens before the next.
#pragma once
#include <cstdint>

namespace engram {

struct EngramShape {
  int64_t batch = 0;
  int64_t length = 0;
  int64_t streams = 1;
  int64_t dim = 0;
  int64_t taps = 0;      // 0: no convolution, y = v
  int64_t dilation = 1;  // tokens between taps
  float gate_norm_eps = 0;
  float conv_norm_eps = 0;
  bool gate = true;  // false: alpha = 1 at every unmasked token

  int64_t tokens() const { return batch * length; }
  int64_t channels() const { return streams * dim; }
};

// Contiguous; nothing is owned.
struct EngramInput {
  const float* hidden = nullptr;       // [B, T, M, d]
  const float* projected = nullptr;    // [B, T, (M + 1) * d], keys first, value last
  const float* query_norm = nullptr;   // [M, d]
  const float* key_norm = nullptr;     // [M, d]
  const float* conv_norm = nullptr;    // [M, d]
  const float* conv_weight = nullptr;  // [M * d, taps], the newest token's tap last
  const int32_t* reach = nullptr;      // [B, T]; null: the token's position
};

// What the forward pass leaves for the backward pass, per token and stream.
struct EngramTokenState {
  float score = 0;
  float inv_query = 0;  // rsqrt(mean(hidden^2) + eps)
  float inv_key = 0;
  float inv_value = 0;  // of alpha * value
};

// taps [taps, M * d]: tap weight by age (newest first) times the conv norm's weight.
void engram_fold_taps(const EngramShape& shape, const EngramInput& input, float* taps);

// Forward 1: gates. alpha [B, T, M] and state [B, T, M] out.
void engram_gate_forward(const EngramShape& shape, const EngramInput& input, int64_t begin, int64_t end, float* alpha,
                         EngramTokenState* state);

// Forward 2: y [B, T, M, d] out.
void engram_mix_forward(const EngramShape& shape, const EngramInput& input, const float* taps, const float* alpha,
                        const EngramTokenState* state, int64_t begin, int64_t end, float* y);

// Backward 1 (with a convolution only): dz [B, T, M, d] out; tap_sums [taps, M * d] gets this call's tokens added.
void engram_mix_backward(const EngramShape& shape, const EngramInput& input, const float* taps, const float* alpha,
                         const EngramTokenState* state, const float* dy, int64_t begin, int64_t end, float* dz,
                         float* tap_sums);

// Backward 2: dhidden and dprojected out; norm_sums [M, d] gets this call's tokens added. scratch [d].
void engram_gate_backward(const EngramShape& shape, const EngramInput& input, const float* taps, const float* alpha,
                          const EngramTokenState* state, const float* dy, const float* dz, int64_t begin, int64_t end,
                          float* dhidden, float* dprojected, float* norm_sums, float* scratch);

// Backward 3: gradients of the weights from the sums over all tokens. dconv_* are untouched without a convolution.
struct EngramWeightGradients {
  float* query_norm = nullptr;
  float* key_norm = nullptr;
  float* conv_norm = nullptr;
  float* conv_weight = nullptr;
};
void engram_weight_gradients(const EngramShape& shape, const EngramInput& input, const float* tap_sums,
                             const float* norm_sums, const EngramWeightGradients& out);

// The oracle of the forward passes: plain loops in double over whole tensors, written from the formulas above.
void engram_fuse_plain(const EngramShape& shape, const EngramInput& input, float* y, float* alpha);

}  // namespace engram
