// The passes over one token's logits that sampling needs: extremes, softmax weights, and a cut. fp32, sums in double.
//
// Weights are summed in blocks of kSumBlock, so that a draw walks over the sums and then over one block.
#pragma once
#include <cstdint>

namespace engram {

inline constexpr int64_t kSumBlock = 256;
inline constexpr int64_t sum_blocks(int64_t n) { return (n + kSumBlock - 1) / kSumBlock; }

inline constexpr float kSmallestPower = -85;  // exp: 1e-37

struct Extremes {
  float least = 0, most = 0;
};
// REQUIRES: n > 0, no NaN.
Extremes extremes(const float* x, int64_t n);

// weights[i] = exp((x[i] - most) * scale), or 0 where that is below `least` or the power at most kSmallestPower.
// sums [sum_blocks(n)]. Returns their total. weights and sums may be null: the total alone.
//   most   at least every x[i];  scale >= 0, finite
double softmax_weights(const float* x, int64_t n, float most, float scale, float least, float* weights, double* sums);
double softmax_weights_plain(const float* x, int64_t n, float most, float scale, float least, float* weights,
                             double* sums);

// Sets all weights to 0 except those with x[i] > logit, or x[i] == logit and i <= last_tie. The same sums and
// total.
double keep_likeliest(const float* x, int64_t n, float logit, int64_t last_tie, float* weights, double* sums);
double keep_likeliest_plain(const float* x, int64_t n, float logit, int64_t last_tie, float* weights, double* sums);

}  // namespace engram
