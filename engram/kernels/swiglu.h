// SwiGLU over rows of fp32: y = silu(gate) * up, where a row of gate_up is gate [width] then up [width].
//
// Every call handles the rows [begin, end) of tensors given whole. *_plain are the oracles. The forms with uint16_t
// take and give bf16: the same arithmetic in fp32, rounded once at the end.
#pragma once
#include <cstdint>

namespace engram {

//   gate_up [rows, 2 * width];  y [rows, width] out
void swiglu_forward(const float* gate_up, int64_t width, int64_t begin, int64_t end, float* y);
void swiglu_forward(const uint16_t* gate_up, int64_t width, int64_t begin, int64_t end, uint16_t* y);
void swiglu_forward_plain(const float* gate_up, int64_t width, int64_t begin, int64_t end, float* y);

//   dy [rows, width];  dgate_up [rows, 2 * width] out
void swiglu_backward(const float* gate_up, const float* dy, int64_t width, int64_t begin, int64_t end, float* dgate_up);
void swiglu_backward(const uint16_t* gate_up, const uint16_t* dy, int64_t width, int64_t begin, int64_t end,
                     uint16_t* dgate_up);
void swiglu_backward_plain(const float* gate_up, const float* dy, int64_t width, int64_t begin, int64_t end,
                           float* dgate_up);

}  // namespace engram
