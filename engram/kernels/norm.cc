#include "engram/kernels/norm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engram/kernels/norm.cc"
#include <hwy/foreach_target.h>

#include "engram/kernels/simd-inl.h"

#include <cmath>

HWY_BEFORE_NAMESPACE();
namespace engram {
namespace HWY_NAMESPACE {

void NormForward(const RmsNormShape& shape, const float* x, const float* weight, int64_t begin, int64_t end, float* y,
                 float* inv_rms) {
  const int64_t dim = shape.dim;
  for (int64_t row = begin; row < end; ++row) {
    const float* x_row = x + row * dim;
    const float* w_row = weight + row % shape.streams * dim;
    float* y_row = y + row * dim;
    Floats squares = splat(0);
    for (int64_t c = 0; c < dim; c += lanes()) {
      const Floats v = load(x_row + c, valid_lanes(c, dim));
      squares = hn::MulAdd(v, v, squares);
    }
    const float inv = 1 / std::sqrt(sum(squares) / static_cast<float>(dim) + shape.eps);
    inv_rms[row] = inv;
    for (int64_t c = 0; c < dim; c += lanes()) {
      const int64_t n = valid_lanes(c, dim);
      store(hn::Mul(hn::Mul(load(x_row + c, n), splat(inv)), load(w_row + c, n)), y_row + c, n);
    }
  }
}

void NormBackward(const RmsNormShape& shape, const float* x, const float* weight, const float* inv_rms, const float* dy,
                  int64_t begin, int64_t end, float* dx, float* dweight) {
  const int64_t dim = shape.dim;
  for (int64_t row = begin; row < end; ++row) {
    const float* x_row = x + row * dim;
    const float* dy_row = dy + row * dim;
    const float* w_row = weight + row % shape.streams * dim;
    float* dx_row = dx + row * dim;
    float* dw_row = dweight + row % shape.streams * dim;
    const float inv = inv_rms[row];
    Floats dot = splat(0);
    for (int64_t c = 0; c < dim; c += lanes()) {
      const int64_t n = valid_lanes(c, dim);
      const Floats v = load(x_row + c, n), g = load(dy_row + c, n);
      const Floats product = hn::Mul(g, v);
      dot = hn::MulAdd(product, load(w_row + c, n), dot);
      store(hn::MulAdd(product, splat(inv), load(dw_row + c, n)), dw_row + c, n);
    }
    const float pull = sum(dot) * inv * inv * inv / static_cast<float>(dim);
    for (int64_t c = 0; c < dim; c += lanes()) {
      const int64_t n = valid_lanes(c, dim);
      const Floats direct = hn::Mul(hn::Mul(load(dy_row + c, n), load(w_row + c, n)), splat(inv));
      store(hn::NegMulAdd(load(x_row + c, n), splat(pull), direct), dx_row + c, n);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace engram
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram {

HWY_EXPORT(NormForward);
HWY_EXPORT(NormBackward);

void rms_norm_forward(const RmsNormShape& shape, const float* x, const float* weight, int64_t begin, int64_t end,
                      float* y, float* inv_rms) {
  HWY_DYNAMIC_DISPATCH(NormForward)(shape, x, weight, begin, end, y, inv_rms);
}

void rms_norm_backward(const RmsNormShape& shape, const float* x, const float* weight, const float* inv_rms,
                       const float* dy, int64_t begin, int64_t end, float* dx, float* dweight) {
  HWY_DYNAMIC_DISPATCH(NormBackward)(shape, x, weight, inv_rms, dy, begin, end, dx, dweight);
}

void rms_norm_forward_plain(const RmsNormShape& shape, const float* x, const float* weight, int64_t begin, int64_t end,
                            float* y, float* inv_rms) {
  for (int64_t row = begin; row < end; ++row) {
    double squares = 0;
    for (int64_t c = 0; c < shape.dim; ++c) squares += double{x[row * shape.dim + c]} * x[row * shape.dim + c];
    const double inv = 1 / std::sqrt(squares / double(shape.dim) + shape.eps);
    inv_rms[row] = static_cast<float>(inv);
    for (int64_t c = 0; c < shape.dim; ++c) {
      const double w = weight[row % shape.streams * shape.dim + c];
      y[row * shape.dim + c] = static_cast<float>(x[row * shape.dim + c] * inv * w);
    }
  }
}

void rms_norm_backward_plain(const RmsNormShape& shape, const float* x, const float* weight, const float* inv_rms,
                             const float* dy, int64_t begin, int64_t end, float* dx, float* dweight) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = row * shape.dim, w_at = row % shape.streams * shape.dim;
    const double inv = inv_rms[row];
    double dot = 0;
    for (int64_t c = 0; c < shape.dim; ++c) dot += double{dy[at + c]} * x[at + c] * weight[w_at + c];
    for (int64_t c = 0; c < shape.dim; ++c) {
      dweight[w_at + c] += static_cast<float>(dy[at + c] * x[at + c] * inv);
      dx[at + c] = static_cast<float>(dy[at + c] * weight[w_at + c] * inv -
                                      x[at + c] * dot * inv * inv * inv / double(shape.dim));
    }
  }
}

}  // namespace engram
#endif  // HWY_ONCE
