#include "engram/kernels/hyper.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "engram/kernels/gemm.h"
#include "engram/kernels/gemv.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engram/kernels/hyper.cc"
#include <hwy/foreach_target.h>

#include "engram/kernels/simd-inl.h"

#ifndef ENGRAM_KERNELS_HYPER_ONCE
#define ENGRAM_KERNELS_HYPER_ONCE
namespace engram {
namespace {

constexpr int64_t kRows = 64;  // tokens of one block; [K, kRows] buffers hold a token per column

}  // namespace
}  // namespace engram
#endif

HWY_BEFORE_NAMESPACE();
namespace engram {
namespace HWY_NAMESPACE {

HWY_INLINE Floats at(const float* columns, int64_t row) { return hn::LoadU(FloatTag(), columns + row * kRows); }
HWY_INLINE void put(Floats value, float* columns, int64_t row) { hn::StoreU(value, FloatTag(), columns + row * kRows); }

// Element m of group g of an n x n matrix: rows are groups of a row step, columns of a column step.
HWY_INLINE int64_t element(int64_t n, bool by_rows, int64_t g, int64_t m) { return by_rows ? g * n + m : m * n + g; }

// out = in / (sum over the group + eps). in and out may be the same.
HWY_INLINE void normalize(int64_t n, bool by_rows, float eps, const float* in, float* out) {
  for (int64_t g = 0; g < n; ++g) {
    Floats total = splat(eps);
    for (int64_t m = 0; m < n; ++m) total = hn::Add(total, at(in, element(n, by_rows, g, m)));
    const Floats inverse = hn::Div(splat(1), total);
    for (int64_t m = 0; m < n; ++m) {
      const int64_t e = element(n, by_rows, g, m);
      put(hn::Mul(at(in, e), inverse), out, e);
    }
  }
}

// d becomes the gradient of `in` where it was that of `out` = normalize(in).
HWY_INLINE void normalize_gradient(int64_t n, bool by_rows, float eps, const float* in, const float* out, float* d) {
  for (int64_t g = 0; g < n; ++g) {
    Floats total = splat(eps), dot = splat(0);
    for (int64_t m = 0; m < n; ++m) {
      const int64_t e = element(n, by_rows, g, m);
      total = hn::Add(total, at(in, e));
      dot = hn::MulAdd(at(d, e), at(out, e), dot);
    }
    const Floats inverse = hn::Div(splat(1), total);
    for (int64_t m = 0; m < n; ++m) {
      const int64_t e = element(n, by_rows, g, m);
      put(hn::Mul(hn::Sub(at(d, e), dot), inverse), d, e);
    }
  }
}

// Row softmax of mixed * scale + base, plus eps.
HWY_INLINE void softmax_rows(const HyperShape& s, const float* mixed, const float* base, float scale, float* out) {
  const int64_t n = s.streams;
  for (int64_t i = 0; i < n; ++i) {
    Floats most = splat(-1e30f), total = splat(0);
    for (int64_t j = 0; j < n; ++j) {
      const int64_t e = i * n + j;
      const Floats z = hn::MulAdd(at(mixed, e), splat(scale), splat(base[e]));
      most = hn::Max(most, z);
      put(z, out, e);
    }
    for (int64_t j = 0; j < n; ++j) {
      const Floats e = fast_exp(hn::Sub(at(out, i * n + j), most));
      total = hn::Add(total, e);
      put(e, out, i * n + j);
    }
    const Floats inverse = hn::Div(splat(1), total);
    for (int64_t j = 0; j < n; ++j) put(hn::MulAdd(at(out, i * n + j), inverse, splat(s.eps)), out, i * n + j);
  }
}

// mixed, out [K, kRows], of which the first `count` columns hold tokens.
void Coefficients(const HyperShape& s, const float* mixed, const float* base, const float* scale, int64_t count,
                  float* out) {
  const int64_t n = s.streams;
  for (int64_t c = 0; c < count; c += lanes()) {
    for (int64_t i = 0; i < n; ++i) {
      const Floats pre = hn::MulAdd(at(mixed + c, i), splat(scale[0]), splat(base[i]));
      const Floats post = hn::MulAdd(at(mixed + c, n + i), splat(scale[1]), splat(base[n + i]));
      put(hn::Add(sigmoid(pre), splat(s.eps)), out + c, i);
      put(hn::Mul(sigmoid(post), splat(2)), out + c, n + i);
    }
    float* comb = out + c + 2 * n * kRows;
    softmax_rows(s, mixed + c + 2 * n * kRows, base + 2 * n, scale[2], comb);
    normalize(n, /*by_rows=*/false, s.eps, comb, comb);
    for (int i = 1; i < s.iterations; ++i) {
      normalize(n, /*by_rows=*/true, s.eps, comb, comb);
      normalize(n, /*by_rows=*/false, s.eps, comb, comb);
    }
  }
}

// One logit z = mixed * scale + base: dz reaches mixed, base and scale.
HWY_INLINE void logit_gradient(Floats dz, Floats mixed, float scale, float* dmixed, float* dbase, float* dscale) {
  hn::StoreU(hn::Mul(dz, splat(scale)), FloatTag(), dmixed);
  *dbase += sum(dz);
  *dscale += sum(hn::Mul(dz, mixed));
}

// d [K, kRows] holds the gradient of the coefficients and becomes that of mixed. states: scratch,
// [2 * iterations, n * n, kRows]. Columns without a token have d = 0 and add nothing.
void CoefficientGradients(const HyperShape& s, const float* mixed, const float* base, const float* scale, float* states,
                          float* d, float* dbase, float* dscale) {
  const int64_t n = s.streams, size = n * n * kRows, last = 2 * s.iterations - 1;
  const Floats one = splat(1);
  for (int64_t c = 0; c < kRows; c += lanes()) {
    for (int64_t i = 0; i < 2 * n; ++i) {
      const int64_t part = i / n;  // 0: pre, 1: post
      const Floats m = at(mixed + c, i), p = sigmoid(hn::MulAdd(m, splat(scale[part]), splat(base[i])));
      const Floats slope = hn::Mul(hn::Mul(p, hn::Sub(one, p)), splat(part == 0 ? 1.0f : 2.0f));
      logit_gradient(hn::Mul(at(d + c, i), slope), m, scale[part], d + c + i * kRows, dbase + i, dscale + part);
    }
    // State 0 is the softmax; odd states follow a column step, even ones a row step.
    float *state = states + c, *dcomb = d + c + 2 * n * kRows;
    const float* mixed_comb = mixed + c + 2 * n * kRows;
    softmax_rows(s, mixed_comb, base + 2 * n, scale[2], state);
    for (int64_t k = 1; k <= last; ++k) {
      normalize(n, k % 2 == 0, s.eps, state + (k - 1) * size, state + k * size);
    }
    for (int64_t k = last; k >= 1; --k) {
      normalize_gradient(n, k % 2 == 0, s.eps, state + (k - 1) * size, state + k * size, dcomb);
    }
    for (int64_t i = 0; i < n; ++i) {
      Floats dot = splat(0);
      for (int64_t j = 0; j < n; ++j) {
        dot = hn::MulAdd(at(dcomb, i * n + j), hn::Sub(at(state, i * n + j), splat(s.eps)), dot);
      }
      for (int64_t j = 0; j < n; ++j) {
        const int64_t e = i * n + j;
        const Floats dz = hn::Mul(hn::Sub(at(state, e), splat(s.eps)), hn::Sub(at(dcomb, e), dot));
        logit_gradient(dz, at(mixed_comb, e), scale[2], dcomb + e * kRows, dbase + 2 * n + e, dscale + 2);
      }
    }
  }
}

HWY_INLINE float dot(const float* a, const float* b, int64_t size) {
  Floats total = splat(0);
  for (int64_t c = 0; c < size; c += lanes()) {
    const int64_t n = valid_lanes(c, size);
    total = hn::MulAdd(load(a + c, n), load(b + c, n), total);
  }
  return sum(total);
}

// out (+)= sum_k weights[k * stride] * rows[k], each row `size` long and `size` apart.
HWY_INLINE void combine(const float* rows, const float* weights, int64_t stride, int64_t count, int64_t size,
                        bool accumulate, float* out) {
  for (int64_t c = 0; c < size; c += lanes()) {
    const int64_t n = valid_lanes(c, size);
    Floats total = accumulate ? load(out + c, n) : splat(0);
    for (int64_t k = 0; k < count; ++k) {
      total = hn::MulAdd(splat(weights[k * stride]), load(rows + k * size + c, n), total);
    }
    store(total, out + c, n);
  }
}

HWY_INLINE void scale_into(const float* row, float weight, int64_t size, bool accumulate, float* out) {
  combine(row, &weight, 1, 1, size, accumulate, out);
}

void SumSquares(const HyperShape& s, const float* x, int64_t rows, float* inv_rms) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = x + r * s.row();
    inv_rms[r] = 1.0f / std::sqrt(dot(row, row, s.row()) / static_cast<float>(s.row()) + s.norm_eps);
  }
}

void MixInputs(const HyperShape& s, const float* x, const float* coefficients, int64_t rows, float* input) {
  for (int64_t r = 0; r < rows; ++r) {
    combine(x + r * s.row(), coefficients + r * s.mixes(), 1, s.streams, s.dim, false, input + r * s.dim);
  }
}

// dpre [rows, K]: its first n columns += <dinput, x_i>.
void MixPreGradients(const HyperShape& s, const float* x, const float* dinput, int64_t rows, float* dpre) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < s.streams; ++i) {
      dpre[r * s.mixes() + i] += dot(dinput + r * s.dim, x + r * s.row() + i * s.dim, s.dim);
    }
  }
}

// dx += pre_i * dinput, and shrink * x for the norm.
void MixInputGradients(const HyperShape& s, const float* x, const float* coefficients, const float* dinput,
                       const float* shrink, int64_t rows, float* dx) {
  for (int64_t r = 0; r < rows; ++r) {
    scale_into(x + r * s.row(), shrink[r], s.row(), /*accumulate=*/true, dx + r * s.row());
    for (int64_t i = 0; i < s.streams; ++i) {
      scale_into(dinput + r * s.dim, coefficients[r * s.mixes() + i], s.dim, true, dx + r * s.row() + i * s.dim);
    }
  }
}

void MergeForward(const HyperShape& s, const float* coefficients, const float* x, const float* output, int64_t begin,
                  int64_t end, float* y) {
  const int64_t n = s.streams;
  for (int64_t r = begin; r < end; ++r) {
    const float *post = coefficients + r * s.mixes() + n, *comb = post + n;
    for (int64_t j = 0; j < n; ++j) {
      float* to = y + r * s.row() + j * s.dim;
      scale_into(output + r * s.dim, post[j], s.dim, /*accumulate=*/false, to);
      combine(x + r * s.row(), comb + j, n, n, s.dim, /*accumulate=*/true, to);
    }
  }
}

void MergeBackward(const HyperShape& s, const float* coefficients, const float* x, const float* output, const float* dy,
                   int64_t begin, int64_t end, const HyperMergeGradients& to) {
  const int64_t n = s.streams, d = s.dim;
  for (int64_t r = begin; r < end; ++r) {
    const float *post = coefficients + r * s.mixes() + n, *comb = post + n, *dy_row = dy + r * s.row();
    float *dpre = to.coefficients + r * s.mixes(), *dpost = dpre + n, *dcomb = dpost + n;
    combine(dy_row, post, 1, n, d, /*accumulate=*/false, to.output + r * d);
    for (int64_t i = 0; i < n; ++i) {
      dpre[i] = 0;
      dpost[i] = dot(dy_row + i * d, output + r * d, d);
      combine(dy_row, comb + i * n, 1, n, d, /*accumulate=*/false, to.x + r * s.row() + i * d);
      for (int64_t j = 0; j < n; ++j) dcomb[i * n + j] = dot(dy_row + j * d, x + r * s.row() + i * d, d);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace engram
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram {
namespace {

HWY_EXPORT(Coefficients);
HWY_EXPORT(CoefficientGradients);
HWY_EXPORT(SumSquares);
HWY_EXPORT(MixInputs);
HWY_EXPORT(MixPreGradients);
HWY_EXPORT(MixInputGradients);
HWY_EXPORT(MergeForward);
HWY_EXPORT(MergeBackward);

std::vector<float> buffer(int64_t size) { return std::vector<float>(static_cast<size_t>(size)); }

// rows [count, K] to columns [K, kRows]; columns past count keep what they hold.
void to_columns(const float* rows, int64_t count, int64_t mixes, float* columns) {
  transpose(rows, count, mixes, columns, kRows);
}
void to_rows(const float* columns, int64_t count, int64_t mixes, float* rows) {
  for (int64_t k = 0; k < mixes; ++k) {
    for (int64_t r = 0; r < count; ++r) rows[r * mixes + k] = columns[k * kRows + r];
  }
}

}  // namespace

void hyper_mix_forward(const HyperShape& s, const float* x, const float* fn, const float* fn_transposed,
                       const float* base, const float* scale, int64_t begin, int64_t end, float* input,
                       float* coefficients, float* mixed, float* inv_rms) {
  const int64_t mixes = s.mixes(), row = s.row();
  std::vector<float> columns = buffer(mixes * kRows), out = buffer(mixes * kRows);
  for (int64_t at = begin; at < end; at += kRows) {
    const int64_t count = std::min(kRows, end - at);
    float* mixed_rows = mixed + at * mixes;
    if (fn_transposed != nullptr) {
      gemm(count, mixes, row, {x + at * row, row, 1}, fn_transposed, mixes, mixed_rows, mixes, /*accumulate=*/false);
    } else {
      for (int64_t r = 0; r < count; r += kGemvRows) {
        gemv(std::min(kGemvRows, count - r), mixes, row, x + (at + r) * row, fn, 0, mixes, mixed_rows + r * mixes);
      }
    }
    HWY_DYNAMIC_DISPATCH(SumSquares)(s, x + at * row, count, inv_rms + at);
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t k = 0; k < mixes; ++k) mixed_rows[r * mixes + k] *= inv_rms[at + r];
    }
    to_columns(mixed_rows, count, mixes, columns.data());
    HWY_DYNAMIC_DISPATCH(Coefficients)(s, columns.data(), base, scale, count, out.data());
    to_rows(out.data(), count, mixes, coefficients + at * mixes);
    HWY_DYNAMIC_DISPATCH(MixInputs)(s, x + at * row, coefficients + at * mixes, count, input + at * s.dim);
  }
}

void hyper_mix_backward(const HyperShape& s, const HyperMixSaved& saved, const float* dinput,
                        const float* dcoefficients, int64_t begin, int64_t end, float* dx, float* dparameters) {
  const int64_t mixes = s.mixes(), row = s.row();
  float *dfn = dparameters, *dbase = dfn + mixes * row, *dscale = dbase + mixes;
  std::vector<float> columns = buffer(mixes * kRows), dcolumns = buffer(mixes * kRows), drows = buffer(mixes * kRows);
  std::vector<float> states = buffer(2 * s.iterations * s.streams * s.streams * kRows);
  for (int64_t at = begin; at < end; at += kRows) {
    const int64_t count = std::min(kRows, end - at);
    const float *x = saved.x + at * row, *mixed = saved.mixed + at * mixes, *inv_rms = saved.inv_rms + at;
    std::copy_n(dcoefficients + at * mixes, count * mixes, drows.data());
    HWY_DYNAMIC_DISPATCH(MixPreGradients)(s, x, dinput + at * s.dim, count, drows.data());
    std::fill(dcolumns.begin(), dcolumns.end(), 0.0f);
    to_columns(drows.data(), count, mixes, dcolumns.data());
    to_columns(mixed, count, mixes, columns.data());
    HWY_DYNAMIC_DISPATCH(CoefficientGradients)
    (s, columns.data(), saved.base, saved.scale, states.data(), dcolumns.data(), dbase, dscale);
    to_rows(dcolumns.data(), count, mixes, drows.data());

    // mixed = r * (fn x) with r = (mean(x^2) + eps)^(-1/2): the first factor's gradient is a shrink of x itself.
    float shrink[kRows];
    for (int64_t r = 0; r < count; ++r) {
      float dot = 0;
      for (int64_t k = 0; k < mixes; ++k) {
        dot += drows[static_cast<size_t>(r * mixes + k)] * mixed[r * mixes + k];
        drows[static_cast<size_t>(r * mixes + k)] *= inv_rms[r];
      }
      shrink[r] = -dot * inv_rms[r] * inv_rms[r] / static_cast<float>(row);
    }
    gemm(count, row, mixes, {drows.data(), mixes, 1}, saved.fn, row, dx + at * row, row, /*accumulate=*/false);
    gemm(mixes, row, count, {drows.data(), 1, mixes}, x, row, dfn, row, /*accumulate=*/true);
    HWY_DYNAMIC_DISPATCH(MixInputGradients)
    (s, x, saved.coefficients + at * mixes, dinput + at * s.dim, shrink, count, dx + at * row);
  }
}

void hyper_merge_forward(const HyperShape& s, const float* coefficients, const float* x, const float* output,
                         int64_t begin, int64_t end, float* y) {
  HWY_DYNAMIC_DISPATCH(MergeForward)(s, coefficients, x, output, begin, end, y);
}

void hyper_merge_backward(const HyperShape& s, const float* coefficients, const float* x, const float* output,
                          const float* dy, int64_t begin, int64_t end, const HyperMergeGradients& gradients) {
  HWY_DYNAMIC_DISPATCH(MergeBackward)(s, coefficients, x, output, dy, begin, end, gradients);
}

}  // namespace engram
#endif  // HWY_ONCE
