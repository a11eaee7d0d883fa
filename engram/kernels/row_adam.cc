#include "engram/kernels/row_adam.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engram/kernels/row_adam.cc"
#include <hwy/foreach_target.h>

#include "engram/kernels/bf16-inl.h"

#include <cmath>
#include <limits>
#include <vector>

#include "engram/kernels/bf16.h"

#ifndef ENGRAM_KERNELS_ROW_ADAM_ONCE
#define ENGRAM_KERNELS_ROW_ADAM_ONCE
namespace engram {
namespace {

// Without a first moment the gradient stands for it.
RowAdamOptions options_for(const RowAdamState& state, RowAdamOptions options) {
  if (!state.m && !state.m_bf16) options.beta1 = 0;
  return options;
}

// What a row's step counter does to its update.
struct Correction {
  float step_size = 0;  // lr / (1 - beta1^t)
  float v_scale = 0;    // 1 / sqrt(1 - beta2^t); 0: not computed yet
};

Correction correction(const RowAdamOptions& options, uint32_t t) {
  Correction out;
  out.step_size = static_cast<float>(options.lr / (1 - std::pow(double{options.beta1}, static_cast<double>(t))));
  out.v_scale = static_cast<float>(1 / std::sqrt(1 - std::pow(double{options.beta2}, static_cast<double>(t))));
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

// Numbers of rows in memory, from `first` on. put() takes 16 random bits for each, in the low halves.
struct Fp32Numbers {
  float* first;
  HWY_INLINE Floats get(int64_t at, int64_t n) const { return load(first + at, n); }
  HWY_INLINE void put(Floats v, Words, int64_t at, int64_t n) const { store(v, first + at, n); }
};

struct Bf16Numbers {
  uint16_t* first;
  HWY_INLINE Floats get(int64_t at, int64_t n) const {
    return hn::BitCast(FloatTag(), hn::ShiftLeft<16>(load_halves(first + at, n)));
  }
  HWY_INLINE void put(Floats v, Words random, int64_t at, int64_t n) const {  // as bf16.h's round_to_bf16
    const WordTag d;
    const Words rounded = hn::ShiftRight<16>(hn::Add(hn::BitCast(d, v), random));
    store_halves(hn::IfThenElse(hn::RebindMask(d, hn::IsNaN(v)), hn::Set(d, 0x7FC0u), rounded), first + at, n);
  }
};

struct NoNumbers {
  HWY_INLINE Floats get(int64_t, int64_t) const { return splat(0); }
  HWY_INLINE void put(Floats, Words, int64_t, int64_t) const {}
};

// mix_word() of each lane.
HWY_INLINE Words mix_words(Words x) {
  const WordTag d;
  x = hn::Mul(hn::Xor(x, hn::ShiftRight<16>(x)), hn::Set(d, 0x7FEB352Du));
  x = hn::Mul(hn::Xor(x, hn::ShiftRight<15>(x)), hn::Set(d, 0x846CA68Bu));
  return hn::Xor(x, hn::ShiftRight<16>(x));
}

template <class Rows, class Moments>
void update_rows(const Rows& rows, const Moments& moments, const RowAdamState& state, const int64_t* row_ids,
                 const float* gradient, int64_t count, const RowAdamOptions& options, const int64_t* numbers) {
  const WordTag dw;
  const int64_t dim = state.dim;
  const Floats beta1 = splat(options.beta1), rest1 = splat(1 - options.beta1), eps = splat(options.eps);
  const Floats beta2 = splat(options.beta2), rest2 = splat(1 - options.beta2), scale = splat(options.gradient_scale);
  const Words stride = hn::Mul(hn::Iota(dw, 0), hn::Set(dw, kNoiseStride));
  Corrections corrections(options);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = row_ids[i];
    const Correction c = corrections.next(state.steps[row]);
    const Floats step_size = splat(c.step_size), v_scale = splat(c.v_scale);
    const uint32_t noise = row_noise(options.noise_key, numbers[i], state.steps[row]);
    const float* g_row = gradient + i * dim;
    Floats v = splat(0);
    if (options.row_wise) v = splat(row_wise_moment(state.v + row, g_row, dim, options));
    for (int64_t at = 0; at < dim; at += lanes()) {
      const int64_t n = valid_lanes(at, dim), to = row * dim + at;
      const Words random = mix_words(hn::Add(stride, hn::Set(dw, noise + static_cast<uint32_t>(at) * kNoiseStride)));
      const Floats g = hn::Mul(load(g_row + at, n), scale);
      const Floats m = hn::MulAdd(beta1, moments.get(to, n), hn::Mul(rest1, g));
      moments.put(m, hn::And(random, hn::Set(dw, 0xFFFFu)), to, n);
      if (!options.row_wise) {
        v = hn::MulAdd(beta2, load(state.v + to, n), hn::Mul(rest2, hn::Mul(g, g)));
        store(v, state.v + to, n);
      }
      const Floats update = hn::Div(hn::Mul(step_size, m), hn::MulAdd(hn::Sqrt(v), v_scale, eps));
      rows.put(hn::Sub(rows.get(to, n), update), hn::ShiftRight<16>(random), to, n);
    }
  }
}

template <class Rows>
void update_any_moments(const Rows& rows, const RowAdamState& state, const int64_t* row_ids, const float* gradient,
                        int64_t count, const RowAdamOptions& options, const int64_t* numbers) {
  if (state.m) return update_rows(rows, Fp32Numbers{state.m}, state, row_ids, gradient, count, options, numbers);
  if (state.m_bf16)
    return update_rows(rows, Bf16Numbers{state.m_bf16}, state, row_ids, gradient, count, options, numbers);
  update_rows(rows, NoNumbers(), state, row_ids, gradient, count, options, numbers);
}

void RowAdam(const RowAdamState& state, const int64_t* row_ids, const float* gradient, int64_t count,
             const RowAdamOptions& options, const int64_t* numbers) {
  if (state.table)
    return update_any_moments(Fp32Numbers{state.table}, state, row_ids, gradient, count, options, numbers);
  update_any_moments(Bf16Numbers{state.table_bf16}, state, row_ids, gradient, count, options, numbers);
}

}  // namespace HWY_NAMESPACE
}  // namespace engram
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram {

HWY_EXPORT(RowAdam);

void row_adam(const RowAdamState& state, const int64_t* row_ids, const float* gradient, int64_t count,
              const RowAdamOptions& options, const int64_t* numbers) {
  const RowAdamOptions own = options_for(state, options);
  HWY_DYNAMIC_DISPATCH(RowAdam)(state, row_ids, gradient, count, own, numbers ? numbers : row_ids);
}

namespace {

double get(const float* fp32, const uint16_t* bf16, int64_t at) {
  return fp32 ? fp32[at] : bf16 ? widen_bf16(bf16[at]) : 0;
}

void put(double value, uint32_t random, float* fp32, uint16_t* bf16, int64_t at) {
  if (fp32) fp32[at] = static_cast<float>(value);
  if (bf16) bf16[at] = round_to_bf16(static_cast<float>(value), static_cast<uint16_t>(random));
}

}  // namespace

void row_adam_plain(const RowAdamState& state, const int64_t* row_ids, const float* gradient, int64_t count,
                    const RowAdamOptions& given, const int64_t* numbers) {
  const RowAdamOptions options = options_for(state, given);
  const double beta1 = options.beta1, beta2 = options.beta2;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = row_ids[i];
    if (state.steps[row] < std::numeric_limits<uint32_t>::max()) ++state.steps[row];
    const double t = state.steps[row];
    const uint32_t noise = row_noise(options.noise_key, numbers ? numbers[i] : row, state.steps[row]);
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
      const uint32_t random = mix_word(noise + static_cast<uint32_t>(c) * kNoiseStride);
      const double m = beta1 * get(state.m, state.m_bf16, at) + (1 - beta1) * scaled(c);
      put(m, random & 0xFFFF, state.m, state.m_bf16, at);
      double v = row_v;
      if (!options.row_wise) {
        v = beta2 * state.v[at] + (1 - beta2) * scaled(c) * scaled(c);
        state.v[at] = static_cast<float>(v);
      }
      const double m_hat = m / (1 - std::pow(beta1, t)), v_hat = v / (1 - std::pow(beta2, t));
      const double update = options.lr * m_hat / (std::sqrt(v_hat) + options.eps);
      put(get(state.table, state.table_bf16, at) - update, random >> 16, state.table, state.table_bf16, at);
    }
  }
}

}  // namespace engram
#endif  // HWY_ONCE
