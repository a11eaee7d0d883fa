#include "engram/kernels/row_adam.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engram/kernels/row_adam.cc"
#include <hwy/foreach_target.h>

#include "engram/kernels/simd-inl.h"

#include <cmath>
#include <limits>
#include <vector>

#ifndef ENGRAM_KERNELS_ROW_ADAM_ONCE
#define ENGRAM_KERNELS_ROW_ADAM_ONCE
namespace engram {
namespace {

// What a row's step counter does to its update.
struct Correction {
  float step_size = 0;  // lr / (1 - beta1^t)
  float v_scale = 0;    // 1 / sqrt(1 - beta2^t); 0: not computed yet
};

Correction correction(const RowAdamOptions& options, uint32_t t) {
  Correction out;
  out.step_size = static_cast<float>(options.lr / (1 - std::pow(double{options.beta1}, double{t})));
  out.v_scale = static_cast<float>(1 / std::sqrt(1 - std::pow(double{options.beta2}, double{t})));
  return out;
}

// Two pow() calls cost more than a short row's update, so the corrections of small counters are kept for the call.
class Corrections {
 public:
  explicit Corrections(const RowAdamOptions& options) : options_(options), known_(kKnown) {}

  // Counts the step and returns its correction. The counter stops at its maximum, where the correction is 1.
  Correction next(uint32_t& steps) {
    if (steps < std::numeric_limits<uint32_t>::max()) ++steps;
    if (steps >= kKnown) return correction(options_, steps);
    Correction& known = known_[steps];
    if (known.v_scale == 0) known = correction(options_, steps);
    return known;
  }

 private:
  static constexpr uint32_t kKnown = 1024;
  const RowAdamOptions& options_;
  std::vector<Correction> known_;
};

}  // namespace
}  // namespace engram
#endif

HWY_BEFORE_NAMESPACE();
namespace engram {
namespace HWY_NAMESPACE {

// The row's one second moment after this gradient.
HWY_INLINE float row_wise_moment(float* v, const float* gradient, int64_t dim, const RowAdamOptions& options) {
  Floats squares = splat(0);
  for (int64_t c = 0; c < dim; c += lanes()) {
    const Floats g = hn::Mul(load(gradient + c, valid_lanes(c, dim)), splat(options.gradient_scale));
    squares = hn::MulAdd(g, g, squares);
  }
  return *v = options.beta2 * *v + (1 - options.beta2) * sum(squares) / static_cast<float>(dim);
}

void RowAdam(const RowAdamState& state, const int64_t* row_ids, const float* gradient, int64_t count,
             const RowAdamOptions& options) {
  const int64_t dim = state.dim;
  const Floats beta1 = splat(options.beta1), rest1 = splat(1 - options.beta1), eps = splat(options.eps);
  const Floats beta2 = splat(options.beta2), rest2 = splat(1 - options.beta2), scale = splat(options.gradient_scale);
  Corrections corrections(options);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = row_ids[i];
    const Correction c = corrections.next(state.steps[row]);
    const Floats step_size = splat(c.step_size), v_scale = splat(c.v_scale);
    const float* g_row = gradient + i * dim;
    Floats v = splat(0);
    if (options.row_wise) v = splat(row_wise_moment(state.v + row, g_row, dim, options));
    for (int64_t at = 0; at < dim; at += lanes()) {
      const int64_t n = valid_lanes(at, dim), to = row * dim + at;
      const Floats g = hn::Mul(load(g_row + at, n), scale);
      const Floats m = hn::MulAdd(beta1, load(state.m + to, n), hn::Mul(rest1, g));
      store(m, state.m + to, n);
      if (!options.row_wise) {
        v = hn::MulAdd(beta2, load(state.v + to, n), hn::Mul(rest2, hn::Mul(g, g)));
        store(v, state.v + to, n);
      }
      const Floats update = hn::Div(hn::Mul(step_size, m), hn::MulAdd(hn::Sqrt(v), v_scale, eps));
      store(hn::Sub(load(state.table + to, n), update), state.table + to, n);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace engram
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram {

HWY_EXPORT(RowAdam);

void row_adam(const RowAdamState& state, const int64_t* row_ids, const float* gradient, int64_t count,
              const RowAdamOptions& options) {
  HWY_DYNAMIC_DISPATCH(RowAdam)(state, row_ids, gradient, count, options);
}

void row_adam_plain(const RowAdamState& state, const int64_t* row_ids, const float* gradient, int64_t count,
                    const RowAdamOptions& options) {
  const double beta1 = options.beta1, beta2 = options.beta2;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = row_ids[i];
    if (state.steps[row] < std::numeric_limits<uint32_t>::max()) ++state.steps[row];
    const double t = state.steps[row];
    auto scaled = [&](int64_t c) { return double{gradient[i * state.dim + c]} * options.gradient_scale; };
    double row_v = 0;
    if (options.row_wise) {
      double squares = 0;
      for (int64_t c = 0; c < state.dim; ++c) squares += scaled(c) * scaled(c);
      row_v = beta2 * state.v[row] + (1 - beta2) * squares / double(state.dim);
      state.v[row] = static_cast<float>(row_v);
    }
    for (int64_t c = 0; c < state.dim; ++c) {
      const int64_t at = row * state.dim + c;
      const double m = beta1 * state.m[at] + (1 - beta1) * scaled(c);
      state.m[at] = static_cast<float>(m);
      double v = row_v;
      if (!options.row_wise) {
        v = beta2 * state.v[at] + (1 - beta2) * scaled(c) * scaled(c);
        state.v[at] = static_cast<float>(v);
      }
      const double m_hat = m / (1 - std::pow(beta1, t)), v_hat = v / (1 - std::pow(beta2, t));
      state.table[at] -= static_cast<float>(options.lr * m_hat / (std::sqrt(v_hat) + options.eps));
    }
  }
}

}  // namespace engram
#endif  // HWY_ONCE
