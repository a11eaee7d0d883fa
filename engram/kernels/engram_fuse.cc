#include "engram/kernels/engram_fuse.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engram/kernels/engram_fuse.cc"
#include <hwy/foreach_target.h>

#include "engram/kernels/simd-inl.h"

#include <algorithm>
#include <cmath>
#include <vector>

#ifndef ENGRAM_KERNELS_ENGRAM_FUSE_ONCE
#define ENGRAM_KERNELS_ENGRAM_FUSE_ONCE
namespace engram {
namespace {

constexpr float kScoreFloor = 1e-6f;  // |score| below it counts as it: the square root's slope stays finite

// How many older tokens a token sees, never past its sequence; negative: masked.
int64_t visible_tokens(const EngramShape& shape, const EngramInput& input, int64_t token) {
  const int64_t position = token % shape.length;
  return input.reach ? std::min<int64_t>(input.reach[token], position) : position;
}

const float* key_row(const EngramShape& shape, const EngramInput& input, int64_t token, int64_t stream) {
  return input.projected + (token * (shape.streams + 1) + stream) * shape.dim;
}

}  // namespace
}  // namespace engram
#endif

HWY_BEFORE_NAMESPACE();
namespace engram {
namespace HWY_NAMESPACE {

HWY_INLINE float mean_square(const float* x, int64_t dim) {
  Floats squares = splat(0);
  for (int64_t c = 0; c < dim; c += lanes()) {
    const Floats v = load(x + c, valid_lanes(c, dim));
    squares = hn::MulAdd(v, v, squares);
  }
  return sum(squares) / static_cast<float>(dim);
}

// sum of a * b * c * d in double: where the terms of a score cancel, the square root above it magnifies every
// rounding of fp32.
HWY_INLINE double product_sum(const float* a, const float* b, const float* c, const float* d, int64_t dim) {
  const hn::ScalableTag<double> dd;
  const hn::Rebind<float, decltype(dd)> df;
  const auto width = static_cast<int64_t>(hn::Lanes(dd));
  auto total = hn::Zero(dd);
  for (int64_t at = 0; at < dim; at += width) {
    const int64_t valid = dim - at < width ? dim - at : width;
    const auto wide = [&](const float* from) { return hn::PromoteTo(dd, load_part(df, from + at, valid)); };
    const auto ab = hn::Mul(wide(a), wide(b)), cd = hn::Mul(wide(c), wide(d));
    total = hn::MulAdd(ab, cd, total);
  }
  return hn::GetLane(hn::SumOfLanes(dd, total));
}

void GateForward(const EngramShape& shape, const EngramInput& input, int64_t begin, int64_t end, float* alpha,
                 EngramTokenState* state) {
  const int64_t dim = shape.dim, streams = shape.streams;
  const double scale = 1 / std::sqrt(static_cast<double>(dim));
  for (int64_t token = begin; token < end; ++token) {
    const bool masked = visible_tokens(shape, input, token) < 0;
    const float value_square = mean_square(key_row(shape, input, token, streams), dim);
    for (int64_t m = 0; m < streams; ++m) {
      EngramTokenState& out = state[token * streams + m];
      float gate = 1;
      if (shape.gate) {
        const float* query = input.hidden + (token * streams + m) * dim;
        const float* key = key_row(shape, input, token, m);
        const float *query_weight = input.query_norm + m * dim, *key_weight = input.key_norm + m * dim;
        out.inv_query = 1 / std::sqrt(mean_square(query, dim) + shape.gate_norm_eps);
        out.inv_key = 1 / std::sqrt(mean_square(key, dim) + shape.gate_norm_eps);
        const double dot = product_sum(query, query_weight, key, key_weight, dim);
        out.score = static_cast<float>(dot * out.inv_query * out.inv_key * scale);
        const float root = std::sqrt(std::max(std::fabs(out.score), kScoreFloor));
        const float signed_root = out.score > 0 ? root : out.score < 0 ? -root : out.score;
        gate = 1 / (1 + std::exp(-signed_root));
      }
      if (masked) gate = 0;
      alpha[token * streams + m] = gate;
      out.inv_value = 1 / std::sqrt(gate * gate * value_square + shape.conv_norm_eps);
    }
  }
}

// The convolution at one token and stream, before SiLU, for the channels [c, c + n) of the stream.
HWY_INLINE Floats convolve(const EngramShape& shape, const EngramInput& input, const float* taps, const float* alpha,
                           const EngramTokenState* state, int64_t token, int64_t stream, int64_t visible, int64_t c,
                           int64_t n) {
  Floats z = splat(0);
  for (int64_t age = 0; age < shape.taps && age * shape.dilation <= visible; ++age) {
    const int64_t older = token - age * shape.dilation;
    const float weight = alpha[older * shape.streams + stream] * state[older * shape.streams + stream].inv_value;
    const Floats tap = load(taps + age * shape.channels() + stream * shape.dim + c, n);
    z = hn::MulAdd(hn::Mul(tap, splat(weight)), load(key_row(shape, input, older, shape.streams) + c, n), z);
  }
  return z;
}

void MixForward(const EngramShape& shape, const EngramInput& input, const float* taps, const float* alpha,
                const EngramTokenState* state, int64_t begin, int64_t end, float* y) {
  const int64_t dim = shape.dim, streams = shape.streams;
  for (int64_t token = begin; token < end; ++token) {
    const int64_t visible = visible_tokens(shape, input, token);
    const float* value = key_row(shape, input, token, streams);
    for (int64_t m = 0; m < streams; ++m) {
      const Floats gate = splat(alpha[token * streams + m]);
      for (int64_t c = 0; c < dim; c += lanes()) {
        const int64_t n = valid_lanes(c, dim);
        const Floats z = convolve(shape, input, taps, alpha, state, token, m, visible, c, n);
        const Floats out = hn::MulAdd(gate, load(value + c, n), hn::Mul(z, sigmoid(z)));
        store(out, y + (token * streams + m) * dim + c, n);
      }
    }
  }
}

void MixBackward(const EngramShape& shape, const EngramInput& input, const float* taps, const float* alpha,
                 const EngramTokenState* state, const float* dy, int64_t begin, int64_t end, float* dz,
                 float* tap_sums) {
  const int64_t dim = shape.dim, streams = shape.streams;
  const Floats one = splat(1);
  for (int64_t token = begin; token < end; ++token) {
    const int64_t visible = visible_tokens(shape, input, token);
    for (int64_t m = 0; m < streams; ++m) {
      const int64_t at = (token * streams + m) * dim;
      for (int64_t c = 0; c < dim; c += lanes()) {
        const int64_t n = valid_lanes(c, dim);
        if (visible < 0) {
          store(splat(0), dz + at + c, n);
          continue;
        }
        const Floats z = convolve(shape, input, taps, alpha, state, token, m, visible, c, n);
        const Floats s = sigmoid(z);
        const Floats slope = hn::Mul(s, hn::MulAdd(z, hn::Sub(one, s), one));
        const Floats grad = hn::Mul(load(dy + at + c, n), slope);
        store(grad, dz + at + c, n);
        for (int64_t age = 0; age < shape.taps && age * shape.dilation <= visible; ++age) {
          const int64_t older = token - age * shape.dilation;
          const float weight = alpha[older * streams + m] * state[older * streams + m].inv_value;
          const Floats normalized = hn::Mul(load(key_row(shape, input, older, streams) + c, n), splat(weight));
          float* sums = tap_sums + age * shape.channels() + m * dim + c;
          store(hn::MulAdd(grad, normalized, load(sums, n)), sums, n);
        }
      }
    }
  }
}

// d loss / d conv_norm(v) without the norm's weight, folded through the taps of this and younger tokens.
HWY_INLINE Floats gather_taps(const EngramShape& shape, const float* taps, const float* dz, const int64_t* younger,
                              int64_t count, int64_t stream, int64_t c, int64_t n) {
  Floats grad = splat(0);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t age = younger[2 * i], token = younger[2 * i + 1];
    grad = hn::MulAdd(load(taps + age * shape.channels() + stream * shape.dim + c, n),
                      load(dz + (token * shape.streams + stream) * shape.dim + c, n), grad);
  }
  return grad;
}

// The value's gradient through one stream is added to dvalue; returns d loss / d alpha.
HWY_INLINE float value_backward(const EngramShape& shape, const float* taps, const float* dz, const float* value,
                                const float* dy, const int64_t* younger, int64_t count, int64_t stream, float alpha,
                                float inv_value, float* dvalue, float* scratch) {
  const int64_t dim = shape.dim;
  Floats along = splat(0), direct = splat(0), squares = splat(0);
  for (int64_t c = 0; c < dim; c += lanes()) {
    const int64_t n = valid_lanes(c, dim);
    const Floats v = load(value + c, n);
    const Floats grad = gather_taps(shape, taps, dz, younger, count, stream, c, n);
    store(grad, scratch + c, n);
    along = hn::MulAdd(grad, v, along);
    direct = hn::MulAdd(load(dy + c, n), v, direct);
    squares = hn::MulAdd(v, v, squares);
  }
  // v = alpha * value; dv = dy + inv * grad - pull * value, the last two being the norm's backward pass.
  const float along_sum = sum(along);
  const float pull = inv_value * inv_value * inv_value * alpha * alpha * along_sum / static_cast<float>(dim);
  const Floats scaled_pull = splat(alpha * pull);
  for (int64_t c = 0; c < dim; c += lanes()) {
    const int64_t n = valid_lanes(c, dim);
    const Floats dv = hn::MulAdd(splat(inv_value), load(scratch + c, n), load(dy + c, n));
    Floats out = hn::MulAdd(splat(alpha), dv, load(dvalue + c, n));
    out = hn::NegMulAdd(scaled_pull, load(value + c, n), out);
    store(out, dvalue + c, n);
  }
  return sum(direct) + inv_value * along_sum - pull * sum(squares);
}

// d loss / d score to the query and the key of one stream.
HWY_INLINE void score_backward(const float* query, const float* key, const float* query_weight, const float* key_weight,
                               const EngramTokenState& state, float dscore, int64_t dim, float* dquery, float* dkey,
                               float* norm_sums) {
  const float inv_dim = 1 / static_cast<float>(dim);
  const Floats across = splat(dscore * state.inv_query * state.inv_key * std::sqrt(inv_dim));
  const Floats query_pull = splat(dscore * state.score * state.inv_query * state.inv_query * inv_dim);
  const Floats key_pull = splat(dscore * state.score * state.inv_key * state.inv_key * inv_dim);
  for (int64_t c = 0; c < dim; c += lanes()) {
    const int64_t n = valid_lanes(c, dim);
    const Floats q = load(query + c, n), k = load(key + c, n);
    const Floats weight = hn::Mul(across, hn::Mul(load(query_weight + c, n), load(key_weight + c, n)));
    store(hn::NegMulAdd(query_pull, q, hn::Mul(weight, k)), dquery + c, n);
    store(hn::NegMulAdd(key_pull, k, hn::Mul(weight, q)), dkey + c, n);
    store(hn::MulAdd(across, hn::Mul(q, k), load(norm_sums + c, n)), norm_sums + c, n);
  }
}

HWY_INLINE void fill_zero(float* to, int64_t dim) {
  for (int64_t c = 0; c < dim; c += lanes()) store(splat(0), to + c, valid_lanes(c, dim));
}

void GateBackward(const EngramShape& shape, const EngramInput& input, const float* taps, const float* alpha,
                  const EngramTokenState* state, const float* dy, const float* dz, int64_t begin, int64_t end,
                  float* dhidden, float* dprojected, float* norm_sums, float* scratch) {
  const int64_t dim = shape.dim, streams = shape.streams;
  std::vector<int64_t> younger(static_cast<size_t>(2 * shape.taps));  // pairs (age, token) whose taps read this token
  for (int64_t token = begin; token < end; ++token) {
    float* dmemory = dprojected + token * (streams + 1) * dim;
    const bool masked = visible_tokens(shape, input, token) < 0;
    fill_zero(dmemory + streams * dim, dim);
    int64_t count = 0;
    for (int64_t age = 0; age < shape.taps && token % shape.length + age * shape.dilation < shape.length; ++age) {
      const int64_t reader = token + age * shape.dilation;
      if (visible_tokens(shape, input, reader) < age * shape.dilation) continue;
      younger[static_cast<size_t>(2 * count)] = age;
      younger[static_cast<size_t>(2 * count + 1)] = reader;
      ++count;
    }
    for (int64_t m = 0; m < streams; ++m) {
      const int64_t at = token * streams + m;
      const EngramTokenState& s = state[at];
      float dalpha = 0;
      if (!masked) {
        dalpha = value_backward(shape, taps, dz, key_row(shape, input, token, streams), dy + at * dim, younger.data(),
                                count, m, alpha[at], s.inv_value, dmemory + streams * dim, scratch);
      }
      if (masked || !shape.gate) {
        fill_zero(dhidden + at * dim, dim);
        fill_zero(dmemory + m * dim, dim);
        continue;
      }
      // alpha = sigmoid(sign * sqrt|score|): flat below the floor.
      const float size = std::fabs(s.score);
      const float slope = size < kScoreFloor ? 0 : alpha[at] * (1 - alpha[at]) * 0.5f / std::sqrt(size);
      score_backward(input.hidden + at * dim, key_row(shape, input, token, m), input.query_norm + m * dim,
                     input.key_norm + m * dim, s, dalpha * slope, dim, dhidden + at * dim, dmemory + m * dim,
                     norm_sums + m * dim);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace engram
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram {

HWY_EXPORT(GateForward);
HWY_EXPORT(MixForward);
HWY_EXPORT(MixBackward);
HWY_EXPORT(GateBackward);

void engram_fold_taps(const EngramShape& shape, const EngramInput& input, float* taps) {
  for (int64_t age = 0; age < shape.taps; ++age) {
    for (int64_t c = 0; c < shape.channels(); ++c) {
      taps[age * shape.channels() + c] = input.conv_weight[c * shape.taps + shape.taps - 1 - age] * input.conv_norm[c];
    }
  }
}

void engram_gate_forward(const EngramShape& shape, const EngramInput& input, int64_t begin, int64_t end, float* alpha,
                         EngramTokenState* state) {
  HWY_DYNAMIC_DISPATCH(GateForward)(shape, input, begin, end, alpha, state);
}

void engram_mix_forward(const EngramShape& shape, const EngramInput& input, const float* taps, const float* alpha,
                        const EngramTokenState* state, int64_t begin, int64_t end, float* y) {
  HWY_DYNAMIC_DISPATCH(MixForward)(shape, input, taps, alpha, state, begin, end, y);
}

void engram_mix_backward(const EngramShape& shape, const EngramInput& input, const float* taps, const float* alpha,
                         const EngramTokenState* state, const float* dy, int64_t begin, int64_t end, float* dz,
                         float* tap_sums) {
  HWY_DYNAMIC_DISPATCH(MixBackward)(shape, input, taps, alpha, state, dy, begin, end, dz, tap_sums);
}

void engram_gate_backward(const EngramShape& shape, const EngramInput& input, const float* taps, const float* alpha,
                          const EngramTokenState* state, const float* dy, const float* dz, int64_t begin, int64_t end,
                          float* dhidden, float* dprojected, float* norm_sums, float* scratch) {
  HWY_DYNAMIC_DISPATCH(GateBackward)
  (shape, input, taps, alpha, state, dy, dz, begin, end, dhidden, dprojected, norm_sums, scratch);
}

void engram_weight_gradients(const EngramShape& shape, const EngramInput& input, const float* tap_sums,
                             const float* norm_sums, const EngramWeightGradients& out) {
  const int64_t channels = shape.channels(), taps = shape.taps;
  for (int64_t c = 0; c < channels; ++c) {
    // Both norm weights enter the score as a product.
    out.query_norm[c] = norm_sums[c] * input.key_norm[c];
    out.key_norm[c] = norm_sums[c] * input.query_norm[c];
    if (taps == 0) continue;
    float norm_gradient = 0;
    for (int64_t age = 0; age < taps; ++age) {
      const int64_t tap = c * taps + taps - 1 - age;
      out.conv_weight[tap] = tap_sums[age * channels + c] * input.conv_norm[c];
      norm_gradient += tap_sums[age * channels + c] * input.conv_weight[tap];
    }
    out.conv_norm[c] = norm_gradient;
  }
}

namespace {

// norm(x) * weight in double.
std::vector<double> normalize_plain(const std::vector<double>& x, const float* weight, double eps) {
  double squares = 0;
  for (double v : x) squares += v * v;
  std::vector<double> out(x.size());
  for (size_t c = 0; c < x.size(); ++c) out[c] = x[c] / std::sqrt(squares / double(x.size()) + eps) * weight[c];
  return out;
}

}  // namespace

void engram_fuse_plain(const EngramShape& shape, const EngramInput& input, float* y, float* alpha) {
  const int64_t dim = shape.dim, streams = shape.streams;
  std::vector<std::vector<double>> v(static_cast<size_t>(shape.tokens() * streams)), normalized(v.size());
  for (int64_t at = 0; at < shape.tokens() * streams; ++at) {
    const int64_t token = at / streams, m = at % streams;
    const float* key = key_row(shape, input, token, m);
    const float* value = key_row(shape, input, token, streams);
    double gate = 1;
    if (shape.gate) {
      const float* query = input.hidden + at * dim;
      const auto k = normalize_plain({key, key + dim}, input.key_norm + m * dim, shape.gate_norm_eps);
      const auto q = normalize_plain({query, query + dim}, input.query_norm + m * dim, shape.gate_norm_eps);
      double score = 0;
      for (size_t c = 0; c < k.size(); ++c) score += k[c] * q[c];
      score /= std::sqrt(double(dim));
      const double sign = score > 0 ? 1 : score < 0 ? -1 : 0;
      gate = 1 / (1 + std::exp(-sign * std::sqrt(std::max(std::fabs(score), 1e-6))));
    }
    if (visible_tokens(shape, input, token) < 0) gate = 0;
    alpha[at] = static_cast<float>(gate);
    auto& row = v[static_cast<size_t>(at)];
    for (int64_t c = 0; c < dim; ++c) row.push_back(gate * value[c]);
    if (shape.taps > 0) {
      normalized[static_cast<size_t>(at)] = normalize_plain(row, input.conv_norm + m * dim, shape.conv_norm_eps);
    }
  }
  for (int64_t at = 0; at < shape.tokens() * streams; ++at) {
    const int64_t m = at % streams, visible = visible_tokens(shape, input, at / streams);
    for (int64_t c = 0; c < dim; ++c) {
      double z = 0;
      for (int64_t tap = 0; tap < shape.taps; ++tap) {
        const int64_t offset = (shape.taps - 1 - tap) * shape.dilation;
        if (offset > visible) continue;
        z += double{input.conv_weight[(m * dim + c) * shape.taps + tap]} *
             normalized[static_cast<size_t>(at - offset * streams)][static_cast<size_t>(c)];
      }
      y[at * dim + c] = static_cast<float>(v[static_cast<size_t>(at)][static_cast<size_t>(c)] + z / (1 + std::exp(-z)));
    }
  }
}

}  // namespace engram
#endif  // HWY_ONCE
