#include "engram/kernels/row_adam.h"

#include <cmath>
#include <limits>

namespace engram {
namespace {

// The counter stops at its maximum; bias correction is 1 long before.
double count_step(uint32_t& steps) {
  if (steps < std::numeric_limits<uint32_t>::max()) ++steps;
  return steps;
}

}  // namespace

void row_adam_plain(const RowAdamState& state, const int64_t* row_ids, const float* gradient, int64_t count,
                    const RowAdamOptions& options) {
  const float beta1 = options.beta1, beta2 = options.beta2;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = row_ids[i];
    const float* g_row = gradient + i * state.dim;
    const double t = count_step(state.steps[row]);
    const float step_size = static_cast<float>(options.lr / (1 - std::pow(double{beta1}, t)));
    const float v_scale = static_cast<float>(1 / std::sqrt(1 - std::pow(double{beta2}, t)));
    float shared_v = 0;
    if (options.row_wise) {
      for (int64_t c = 0; c < state.dim; ++c) {
        const float g = g_row[c] * options.gradient_scale;
        shared_v += g * g;
      }
      shared_v = beta2 * state.v[row] + (1 - beta2) * shared_v / static_cast<float>(state.dim);
      state.v[row] = shared_v;
    }
    for (int64_t c = 0; c < state.dim; ++c) {
      const int64_t at = row * state.dim + c;
      const float g = g_row[c] * options.gradient_scale;
      state.m[at] = beta1 * state.m[at] + (1 - beta1) * g;
      if (!options.row_wise) state.v[at] = beta2 * state.v[at] + (1 - beta2) * g * g;
      const float v = options.row_wise ? shared_v : state.v[at];
      state.table[at] -= step_size * state.m[at] / (std::sqrt(v) * v_scale + options.eps);
    }
  }
}

void row_adam(const RowAdamState& state, const int64_t* row_ids, const float* gradient, int64_t count,
              const RowAdamOptions& options) {
  row_adam_plain(state, row_ids, gradient, count, options);
}

}  // namespace engram
