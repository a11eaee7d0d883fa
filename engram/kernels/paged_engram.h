// The Engram module's convolution and sum where older tokens lie in pages, fp32. The gates come from engram_fuse.h.
//
// A token's page row holds what the convolutions of later tokens read, value_width = d:
//   value [d], gate [M] (alpha), weight [M] (alpha / rms(alpha * value): value * weight is the norm without its weight)
// so that z = sum over taps of tap * value * weight over older tokens, y = gate * value + z * sigmoid(z).
#pragma once
#include <cstdint>

namespace engram {

struct PagedEngramShape {
  int64_t streams = 1;  // M
  int64_t dim = 0;      // d
  int64_t taps = 0;     // 0: no convolution, y = v
  int64_t row_width() const { return dim + 2 * streams; }
};

// Handles the tokens [begin, end).
//   taps       [taps, M * d]  as engram_fold_taps() makes them, newest first
//   pages      rows of row_width() floats
//   slots      [N]            the page row of each new token; its own is written before
//   tap_slots  [N, taps]      the page row each tap reads, the token's own first; -1: not visible. Null without taps
//   y          [N, M, d]      out; a token whose gate is 0 gives z alone
void paged_engram_mix(const PagedEngramShape& shape, const float* taps, const float* pages, const int64_t* slots,
                      const int64_t* tap_slots, int64_t begin, int64_t end, float* y);

}  // namespace engram
