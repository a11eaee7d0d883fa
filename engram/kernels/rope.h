// Rotary embedding in fp32: each pair (a, b) of a row turns to (a cos - b sin, b cos + a sin).
//
// Row i of x [rows, 2 * half] belongs to token (i / heads) % length and uses cos, sin [length, half] of that token.
// interleaved: pair p is columns (2p, 2p + 1), as DeepSeek; else (p, p + half), as Llama. inverse turns back, which is
// the gradient. Handles the rows [begin, end); y may be x.
#pragma once
#include <cstdint>

namespace engram {

struct RopeShape {
  int64_t length = 0;
  int64_t heads = 0;
  int64_t half = 0;
  bool interleaved = true;
  bool inverse = false;
};

void rope(const RopeShape& shape, const float* x, const float* cos, const float* sin, int64_t begin, int64_t end,
          float* y);

}  // namespace engram
