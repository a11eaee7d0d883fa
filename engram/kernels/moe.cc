#include "engram/kernels/moe.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engram/kernels/gemm.h"
#include "engram/kernels/swiglu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engram/kernels/moe.cc"
#include <hwy/foreach_target.h>

#include "engram/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace engram {
namespace HWY_NAMESPACE {

// to[i] = from[token of assignments[i]], i < count.
void GatherTokens(const float* from, int64_t dim, const int64_t* assignments, int64_t choices, int64_t count,
                  float* to) {
  for (int64_t i = 0; i < count; ++i) {
    const float* row = from + assignments[i] / choices * dim;
    for (int64_t c = 0; c < dim; c += lanes()) {
      const int64_t n = valid_lanes(c, dim);
      store(load(row + c, n), to + i * dim + c, n);
    }
  }
}

// to[assignments[i]] = from[i], i < count.
void ScatterRows(const float* from, int64_t dim, const int64_t* assignments, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) {
    float* row = to + assignments[i] * dim;
    for (int64_t c = 0; c < dim; c += lanes()) {
      const int64_t n = valid_lanes(c, dim);
      store(load(from + i * dim + c, n), row + c, n);
    }
  }
}

// Each row: weight gradient = <unscaled, activation>; then both are scaled by the row's weight.
void WeighRows(const int64_t* assignments, const float* topk_weight, int64_t width, int64_t count, float* unscaled,
               float* activation, float* dtopk_weight) {
  for (int64_t i = 0; i < count; ++i) {
    const Floats weight = splat(topk_weight[assignments[i]]);
    Floats dot = splat(0);
    for (int64_t c = 0; c < width; c += lanes()) {
      const int64_t n = valid_lanes(c, width);
      const Floats g = load(unscaled + i * width + c, n), a = load(activation + i * width + c, n);
      dot = hn::MulAdd(g, a, dot);
      store(hn::Mul(g, weight), unscaled + i * width + c, n);
      store(hn::Mul(a, weight), activation + i * width + c, n);
    }
    dtopk_weight[assignments[i]] = sum(dot);
  }
}

void Combine(const float* rows, const float* topk_weight, int64_t choices, int64_t dim, int64_t begin, int64_t end,
             float* out) {
  for (int64_t token = begin; token < end; ++token) {
    for (int64_t c = 0; c < dim; c += lanes()) {
      const int64_t n = valid_lanes(c, dim);
      Floats total = splat(0);
      for (int64_t at = token * choices; at < (token + 1) * choices; ++at) {
        const Floats row = load(rows + at * dim + c, n);
        total = topk_weight ? hn::MulAdd(row, splat(topk_weight[at]), total) : hn::Add(row, total);
      }
      store(total, out + token * dim + c, n);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace engram
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram {
namespace {

HWY_EXPORT(GatherTokens);
HWY_EXPORT(ScatterRows);
HWY_EXPORT(WeighRows);
HWY_EXPORT(Combine);

// Rows of one expert are worked on in blocks that stay in cache; scratch is bounded by it.
constexpr int64_t kBlockRows = 192;

int64_t largest_block(const MoeGroups& groups, int64_t expert_begin, int64_t expert_end) {
  int64_t most = 0;
  for (int64_t e = expert_begin; e < expert_end; ++e) {
    const auto at = static_cast<size_t>(e);
    most = std::max(most, groups.offsets[at + 1] - groups.offsets[at]);
  }
  return std::min(most, kBlockRows);
}

void gather_tokens(const float* from, int64_t dim, const int64_t* assignments, int64_t choices, int64_t count,
                   float* to) {
  HWY_DYNAMIC_DISPATCH(GatherTokens)(from, dim, assignments, choices, count, to);
}

}  // namespace

void choose_largest(const float* scores, int64_t rows, int64_t experts, int64_t k, int64_t* index) {
  constexpr float kLeast = -std::numeric_limits<float>::infinity();
  std::vector<float> best(static_cast<size_t>(k));
  for (int64_t row = 0; row < rows; ++row, scores += experts, index += k) {
    std::fill(best.begin(), best.end(), kLeast);
    for (int64_t e = 0, filled = 0; e < experts; ++e) {
      const float score = std::isnan(scores[e]) ? kLeast : scores[e];
      if (filled == k && !(score > best[static_cast<size_t>(k - 1)])) continue;
      int64_t place = filled < k ? filled++ : k - 1;
      for (; place > 0 && score > best[static_cast<size_t>(place - 1)]; --place) {
        best[static_cast<size_t>(place)] = best[static_cast<size_t>(place - 1)];
        index[place] = index[place - 1];
      }
      best[static_cast<size_t>(place)] = score;
      index[place] = e;
    }
  }
}

Result<MoeGroups> group_by_expert(const int64_t* topk_index, const MoeShape& shape) {
  MoeGroups groups;
  groups.offsets.assign(static_cast<size_t>(shape.experts + 1), 0);
  for (int64_t a = 0; a < shape.assignments(); ++a) {
    if (topk_index[a] < 0 || topk_index[a] >= shape.experts) {
      return make_status(StatusCode::kOutOfRange, "expert index of token {}, choice {}: got {}, wanted 0 to {}",
                         a / shape.choices, a % shape.choices, topk_index[a], shape.experts - 1);
    }
    ++groups.offsets[static_cast<size_t>(topk_index[a] + 1)];
  }
  for (size_t e = 1; e < groups.offsets.size(); ++e) groups.offsets[e] += groups.offsets[e - 1];
  std::vector<int64_t> next(groups.offsets.begin(), groups.offsets.end() - 1);
  groups.assignments.resize(static_cast<size_t>(shape.assignments()));
  for (int64_t a = 0; a < shape.assignments(); ++a) {
    groups.assignments[static_cast<size_t>(next[static_cast<size_t>(topk_index[a])]++)] = a;
  }
  return groups;
}

std::pair<int64_t, int64_t> expert_range(const MoeGroups& groups, int64_t task, int64_t tasks) {
  // An expert belongs to the task in whose share of the rows (plus a fixed cost per expert) it starts.
  constexpr int64_t kRowsPerExpert = 32;
  const auto experts = static_cast<int64_t>(groups.offsets.size()) - 1;
  const int64_t total = groups.offsets.back() + kRowsPerExpert * experts;
  auto first_expert = [&](int64_t share) {
    int64_t e = 0;
    while (e < experts && (groups.offsets[static_cast<size_t>(e)] + kRowsPerExpert * e) * tasks < total * share) ++e;
    return e;
  };
  return {first_expert(task), first_expert(task + 1)};
}

void moe_forward(const MoeShape& shape, const MoeGroups& groups, const MoeInput& input, int64_t expert_begin,
                 int64_t expert_end, float* inner, float* rows) {
  const int64_t dim = shape.dim, width = shape.width, most = largest_block(groups, expert_begin, expert_end);
  std::vector<float> x(static_cast<size_t>(most * dim)), activation(static_cast<size_t>(most * width));
  std::vector<float> out(static_cast<size_t>(most * dim));
  std::vector<float> gate_up(static_cast<size_t>(dim * 2 * width)), down(static_cast<size_t>(width * dim));
  for (int64_t e = expert_begin; e < expert_end; ++e) {
    const int64_t end = groups.offsets[static_cast<size_t>(e + 1)];
    int64_t row = groups.offsets[static_cast<size_t>(e)];
    if (row == end) continue;
    transpose(input.gate_up + e * 2 * width * dim, 2 * width, dim, gate_up.data(), 2 * width);
    transpose(input.down + e * dim * width, dim, width, down.data(), dim);
    for (; row < end; row += kBlockRows) {
      const int64_t count = std::min(kBlockRows, end - row);
      const int64_t* assignments = groups.assignments.data() + row;
      float* block_inner = inner + row * 2 * width;
      gather_tokens(input.x, dim, assignments, shape.choices, count, x.data());
      gemm(count, 2 * width, dim, {x.data(), dim, 1}, gate_up.data(), 2 * width, block_inner, 2 * width, false);
      swiglu_forward(block_inner, width, 0, count, activation.data());
      gemm(count, dim, width, {activation.data(), width, 1}, down.data(), dim, out.data(), dim, false);
      HWY_DYNAMIC_DISPATCH(ScatterRows)(out.data(), dim, assignments, count, rows);
    }
  }
}

void moe_backward(const MoeShape& shape, const MoeGroups& groups, const MoeInput& input, const float* inner,
                  const float* dy, int64_t expert_begin, int64_t expert_end, const MoeGradients& out) {
  const int64_t dim = shape.dim, width = shape.width, most = largest_block(groups, expert_begin, expert_end);
  std::vector<float> x(static_cast<size_t>(most * dim)), dout(static_cast<size_t>(most * dim));
  std::vector<float> activation(static_cast<size_t>(most * width)), dactivation(static_cast<size_t>(most * width));
  std::vector<float> dinner(static_cast<size_t>(most * 2 * width)), dx(static_cast<size_t>(most * dim));
  for (int64_t e = expert_begin; e < expert_end; ++e) {
    const int64_t begin = groups.offsets[static_cast<size_t>(e)], end = groups.offsets[static_cast<size_t>(e + 1)];
    const float* gate_up = input.gate_up + e * 2 * width * dim;
    const float* down = input.down + e * dim * width;
    int64_t row = begin;
    do {  // once even without rows: the products over no rows write the zero gradients
      const int64_t count = std::min(kBlockRows, end - row);
      const bool add = row > begin;
      const int64_t* assignments = groups.assignments.data() + row;
      const float* block_inner = inner + row * 2 * width;
      gather_tokens(input.x, dim, assignments, shape.choices, count, x.data());
      gather_tokens(dy, dim, assignments, shape.choices, count, dout.data());
      gemm(count, width, dim, {dout.data(), dim, 1}, down, width, dactivation.data(), width, false);
      swiglu_forward(block_inner, width, 0, count, activation.data());
      HWY_DYNAMIC_DISPATCH(WeighRows)
      (assignments, input.topk_weight, width, count, dactivation.data(), activation.data(), out.topk_weight);
      gemm(dim, width, count, {dout.data(), 1, dim}, activation.data(), width, out.down + e * dim * width, width, add);
      swiglu_backward(block_inner, dactivation.data(), width, 0, count, dinner.data());
      gemm(2 * width, dim, count, {dinner.data(), 1, 2 * width}, x.data(), dim, out.gate_up + e * 2 * width * dim, dim,
           add);
      gemm(count, dim, 2 * width, {dinner.data(), 2 * width, 1}, gate_up, dim, dx.data(), dim, false);
      HWY_DYNAMIC_DISPATCH(ScatterRows)(dx.data(), dim, assignments, count, out.x_rows);
      row += kBlockRows;
    } while (row < end);
  }
}

void moe_combine(const MoeShape& shape, const float* rows, const float* topk_weight, int64_t begin, int64_t end,
                 float* out) {
  HWY_DYNAMIC_DISPATCH(Combine)(rows, topk_weight, shape.choices, shape.dim, begin, end, out);
}

void moe_plain(const MoeShape& shape, const MoeInput& input, const int64_t* topk_index, float* y) {
  const int64_t dim = shape.dim, width = shape.width;
  for (int64_t token = 0; token < shape.tokens; ++token) {
    std::vector<double> total(static_cast<size_t>(dim));
    const float* x = input.x + token * dim;
    for (int64_t j = 0; j < shape.choices; ++j) {
      const int64_t e = topk_index[token * shape.choices + j];
      for (int64_t f = 0; f < width; ++f) {
        const float* gate_row = input.gate_up + (e * 2 * width + f) * dim;
        const float* up_row = gate_row + width * dim;
        double gate = 0, up = 0;
        for (int64_t c = 0; c < dim; ++c) {
          gate += double{gate_row[c]} * x[c];
          up += double{up_row[c]} * x[c];
        }
        const double active = gate / (1 + std::exp(-gate)) * up * input.topk_weight[token * shape.choices + j];
        for (int64_t c = 0; c < dim; ++c) {
          total[static_cast<size_t>(c)] += active * input.down[(e * dim + c) * width + f];
        }
      }
    }
    for (int64_t c = 0; c < dim; ++c) y[token * dim + c] = static_cast<float>(total[static_cast<size_t>(c)]);
  }
}

}  // namespace engram
#endif  // HWY_ONCE
