#include "engram/kernels/swiglu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engram/kernels/swiglu.cc"
#include <hwy/foreach_target.h>

#include "engram/kernels/bf16-inl.h"
#include "engram/kernels/simd-inl.h"

#include <cmath>

HWY_BEFORE_NAMESPACE();
namespace engram {
namespace HWY_NAMESPACE {

HWY_INLINE Floats get(const float* from, int64_t n) { return load(from, n); }
HWY_INLINE Floats get(const uint16_t* from, int64_t n) {
  return hn::BitCast(FloatTag(), hn::ShiftLeft<16>(load_halves(from, n)));
}
HWY_INLINE void put(Floats v, float* to, int64_t n) { store(v, to, n); }
HWY_INLINE void put(Floats v, uint16_t* to, int64_t n) { store_halves(bf16_words(v), to, n); }

template <typename Number>
HWY_INLINE void forward(const Number* gate_up, int64_t width, int64_t begin, int64_t end, Number* y) {
  for (int64_t row = begin; row < end; ++row) {
    const Number* gate = gate_up + row * 2 * width;
    for (int64_t c = 0; c < width; c += lanes()) {
      const int64_t n = valid_lanes(c, width);
      const Floats g = get(gate + c, n), u = get(gate + width + c, n);
      put(hn::Mul(hn::Mul(g, sigmoid(g)), u), y + row * width + c, n);
    }
  }
}

template <typename Number>
HWY_INLINE void backward(const Number* gate_up, const Number* dy, int64_t width, int64_t begin, int64_t end,
                         Number* dgate_up) {
  const Floats one = splat(1);
  for (int64_t row = begin; row < end; ++row) {
    const Number* gate = gate_up + row * 2 * width;
    Number* dgate = dgate_up + row * 2 * width;
    for (int64_t c = 0; c < width; c += lanes()) {
      const int64_t n = valid_lanes(c, width);
      const Floats g = get(gate + c, n), u = get(gate + width + c, n), grad = get(dy + row * width + c, n);
      const Floats s = sigmoid(g);
      // d silu(g) / dg = s * (1 + g * (1 - s))
      const Floats slope = hn::Mul(s, hn::MulAdd(g, hn::Sub(one, s), one));
      put(hn::Mul(hn::Mul(grad, u), slope), dgate + c, n);
      put(hn::Mul(grad, hn::Mul(g, s)), dgate + width + c, n);
    }
  }
}

void SwigluForward(const float* gate_up, int64_t width, int64_t begin, int64_t end, float* y) {
  forward(gate_up, width, begin, end, y);
}
void SwigluForwardBf16(const uint16_t* gate_up, int64_t width, int64_t begin, int64_t end, uint16_t* y) {
  forward(gate_up, width, begin, end, y);
}
void SwigluBackward(const float* gate_up, const float* dy, int64_t width, int64_t begin, int64_t end, float* dgate_up) {
  backward(gate_up, dy, width, begin, end, dgate_up);
}
void SwigluBackwardBf16(const uint16_t* gate_up, const uint16_t* dy, int64_t width, int64_t begin, int64_t end,
                        uint16_t* dgate_up) {
  backward(gate_up, dy, width, begin, end, dgate_up);
}

}  // namespace HWY_NAMESPACE
}  // namespace engram
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram {

HWY_EXPORT(SwigluForward);
HWY_EXPORT(SwigluForwardBf16);
HWY_EXPORT(SwigluBackward);
HWY_EXPORT(SwigluBackwardBf16);

void swiglu_forward(const float* gate_up, int64_t width, int64_t begin, int64_t end, float* y) {
  HWY_DYNAMIC_DISPATCH(SwigluForward)(gate_up, width, begin, end, y);
}

void swiglu_backward(const float* gate_up, const float* dy, int64_t width, int64_t begin, int64_t end,
                     float* dgate_up) {
  HWY_DYNAMIC_DISPATCH(SwigluBackward)(gate_up, dy, width, begin, end, dgate_up);
}

void swiglu_forward(const uint16_t* gate_up, int64_t width, int64_t begin, int64_t end, uint16_t* y) {
  HWY_DYNAMIC_DISPATCH(SwigluForwardBf16)(gate_up, width, begin, end, y);
}

void swiglu_backward(const uint16_t* gate_up, const uint16_t* dy, int64_t width, int64_t begin, int64_t end,
                     uint16_t* dgate_up) {
  HWY_DYNAMIC_DISPATCH(SwigluBackwardBf16)(gate_up, dy, width, begin, end, dgate_up);
}

void swiglu_forward_plain(const float* gate_up, int64_t width, int64_t begin, int64_t end, float* y) {
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t c = 0; c < width; ++c) {
      const double g = gate_up[row * 2 * width + c], u = gate_up[row * 2 * width + width + c];
      y[row * width + c] = static_cast<float>(g / (1 + std::exp(-g)) * u);
    }
  }
}

void swiglu_backward_plain(const float* gate_up, const float* dy, int64_t width, int64_t begin, int64_t end,
                           float* dgate_up) {
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t c = 0; c < width; ++c) {
      const double g = gate_up[row * 2 * width + c], u = gate_up[row * 2 * width + width + c];
      const double s = 1 / (1 + std::exp(-g)), grad = dy[row * width + c];
      dgate_up[row * 2 * width + c] = static_cast<float>(grad * u * s * (1 + g * (1 - s)));
      dgate_up[row * 2 * width + width + c] = static_cast<float>(grad * g * s);
    }
  }
}

}  // namespace engram
#endif  // HWY_ONCE
