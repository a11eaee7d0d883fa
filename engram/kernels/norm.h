// RMSNorm over rows of fp32, forward and backward: y = x * rsqrt(mean(x^2) + eps) * weight.
//
// Every call handles the rows [begin, end) of tensors given whole, so that a caller splits rows over threads.
// Vector code chosen at run time; *_plain are the oracles.
#pragma once
#include <cstdint>

namespace engram {

struct RmsNormShape {
  int64_t dim = 0;
  int64_t streams = 1;  // row r uses weight[r % streams]
  float eps = 0;
};

//   x, y     [rows, dim]       may be the same
//   weight   [streams, dim]
//   inv_rms  [rows]            out, for the backward pass
void rms_norm_forward(const RmsNormShape& shape, const float* x, const float* weight, int64_t begin, int64_t end,
                      float* y, float* inv_rms);
void rms_norm_forward_plain(const RmsNormShape& shape, const float* x, const float* weight, int64_t begin, int64_t end,
                            float* y, float* inv_rms);

//   dx       [rows, dim]       out
//   dweight  [streams, dim]    this call's rows are added; give each thread its own
void rms_norm_backward(const RmsNormShape& shape, const float* x, const float* weight, const float* inv_rms,
                       const float* dy, int64_t begin, int64_t end, float* dx, float* dweight);
void rms_norm_backward_plain(const RmsNormShape& shape, const float* x, const float* weight, const float* inv_rms,
                             const float* dy, int64_t begin, int64_t end, float* dx, float* dweight);

}  // namespace engram
