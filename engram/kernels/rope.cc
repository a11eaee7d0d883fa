#include "engram/kernels/rope.h"

namespace engram {

// Plain loops: rows are a few dozen floats and the arithmetic is nothing beside the memory.
void rope(const RopeShape& shape, const float* x, const float* cos, const float* sin, int64_t begin, int64_t end,
          float* y) {
  const int64_t stride = shape.interleaved ? 2 : 1, partner = shape.interleaved ? 1 : shape.half;
  const float sign = shape.inverse ? -1.0f : 1.0f;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t token = row / shape.heads % shape.length;
    const float *c = cos + token * shape.half, *s = sin + token * shape.half;
    const float* in = x + row * 2 * shape.half;
    float* out = y + row * 2 * shape.half;
    for (int64_t p = 0; p < shape.half; ++p) {
      const float a = in[p * stride], b = in[p * stride + partner], turn = sign * s[p];
      out[p * stride] = a * c[p] - b * turn;
      out[p * stride + partner] = b * c[p] + a * turn;
    }
  }
}

}  // namespace engram
