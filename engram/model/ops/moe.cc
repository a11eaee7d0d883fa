// moe_experts: the routed experts through engram/kernels/moe.h.
#include <algorithm>
#include <memory>
#include <type_traits>

#include "engram/kernels/gemm.h"
#include "engram/kernels/moe.h"
#include "engram/kernels/swiglu.h"
#include "engram/model/ops/moe_parts.h"
#include "engram/model/ops/ops.h"
#include "engram/model/ops/support.h"

namespace engram {
namespace {

using internal::floats;
using internal::halves;
using internal::is_plain;
using internal::mutable_floats;
using internal::to_fp32;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

MoeShape moe_shape(const torch::Tensor& x, const torch::Tensor& down, const torch::Tensor& topk_index) {
  MoeShape shape;
  shape.tokens = x.size(0);
  shape.dim = x.size(1);
  shape.width = down.size(2);
  shape.experts = down.size(0);
  shape.choices = topk_index.size(1);
  return shape;
}

MoeInput moe_input(const torch::Tensor& x, const torch::Tensor& gate_up, const torch::Tensor& down,
                   const torch::Tensor& topk_weight) {
  MoeInput input;
  input.x = floats(x);
  input.gate_up = floats(gate_up);
  input.down = floats(down);
  input.topk_weight = floats(topk_weight);
  return input;
}

// work(expert_begin, expert_end) for as many ranges as there are threads, about equally many rows in each.
template <typename Work>
void for_experts(const MoeGroups& groups, const Work& work) {
  const int64_t tasks = parallel_threads();
  parallel_tasks(tasks, [&](int64_t i) {
    const auto [begin, end] = expert_range(groups, i, tasks);
    work(begin, end);
  });
}

// y [A, n] = x [A, k] times the matrices [experts, n, k]: of each group of rows its expert's, which is read once, in
// place. Threads share out the outputs of the experts that have rows.
template <typename Weight>
void few_rows_by_expert(const MoeGroups& groups, const float* x, const Weight* matrices, int64_t n, int64_t k,
                        float* y) {
  struct Piece {
    int64_t expert, first, rows, begin, end;  // rows of x, outputs
  };
  constexpr bool kHalf = !std::is_same_v<Weight, float>;
  constexpr int64_t kMostRows = kHalf ? kGemvRows : kFewRows;
  std::vector<Piece> pieces;
  int64_t most = 0;
  for (size_t e = 0; e + 1 < groups.offsets.size(); ++e) {
    most = std::max(most, groups.offsets[e + 1] - groups.offsets[e]);
  }
  const int64_t grain = internal::output_grain(kHalf ? 1 : most, k);
  const auto turned = [k](int64_t rows) { return !kHalf && takes_columns(rows, k); };
  std::vector<float> columns(turned(most) ? groups.assignments.size() * static_cast<size_t>(k) : 0);
  for (size_t e = 0; e + 1 < groups.offsets.size(); ++e) {
    const int64_t end = groups.offsets[e + 1];
    for (int64_t first = groups.offsets[e]; first < end; first += kMostRows) {
      const int64_t rows = std::min(kMostRows, end - first);
      if (turned(rows)) transpose(x + first * k, rows, k, columns.data() + first * k, rows);
      for (int64_t at = 0; at < n; at += grain) {
        pieces.push_back({static_cast<int64_t>(e), first, rows, at, std::min(n, at + grain)});
      }
    }
  }
  parallel_tasks(std::ssize(pieces), [&](int64_t i) {
    const Piece& p = pieces[static_cast<size_t>(i)];
    const Weight* matrix = matrices + p.expert * n * k;
    if constexpr (kHalf) {
      gemv(p.rows, n, k, x + p.first * k, matrix, p.begin, p.end, y + p.first * n);
    } else {
      few_rows_product(p.rows, n, k, x + p.first * k, columns.empty() ? nullptr : columns.data() + p.first * k, matrix,
                       p.begin, p.end, y + p.first * n);
    }
  });
}

template <typename Weight>
void rows_of_few(const MoeShape& shape, const MoeGroups& groups, const float* x, const Weight* gate_up,
                 const Weight* down, float* rows) {
  const int64_t count = shape.assignments(), dim = shape.dim, width = shape.width;
  const auto room = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(count * (dim + 3 * width)));
  float *by_expert = room.get(), *inner = by_expert + count * dim, *active = inner + count * 2 * width;  // [A, d], ..
  for (int64_t i = 0; i < count; ++i) {
    const int64_t token = groups.assignments[static_cast<size_t>(i)] / shape.choices;
    std::copy_n(x + token * dim, dim, by_expert + i * dim);
  }
  few_rows_by_expert(groups, by_expert, gate_up, 2 * width, dim, inner);
  swiglu_forward(inner, width, 0, count, active);
  few_rows_by_expert(groups, active, down, dim, width, by_expert);
  for (int64_t i = 0; i < count; ++i) {
    std::copy_n(by_expert + i * dim, dim, rows + groups.assignments[static_cast<size_t>(i)] * dim);
  }
}

}  // namespace

namespace internal {

MoeGroups group_choices(const torch::Tensor& topk_index, const MoeShape& shape) {
  Result<MoeGroups> groups = group_by_expert(topk_index.const_data_ptr<int64_t>(), shape);
  TORCH_CHECK(groups.ok(), "moe_experts: ", groups.status().message());
  return std::move(groups).value();
}

void expert_rows(const MoeShape& shape, const MoeGroups& groups, const MoeInput& input, float* inner, float* rows) {
  for_experts(groups, [&](int64_t begin, int64_t end) { moe_forward(shape, groups, input, begin, end, inner, rows); });
}

void expert_gradients(const MoeShape& shape, const MoeGroups& groups, const MoeInput& input, const float* inner,
                      const float* dy, const MoeGradients& out) {
  for_experts(groups,
              [&](int64_t begin, int64_t end) { moe_backward(shape, groups, input, inner, dy, begin, end, out); });
}

bool are_few(int64_t tokens) { return c10::InferenceMode::is_enabled() && tokens > 0 && tokens <= kFewRows; }

void few_expert_rows(const MoeShape& shape, const MoeGroups& groups, const MoeInput& input, float* rows) {
  rows_of_few(shape, groups, input.x, input.gate_up, input.down, rows);
}

torch::Tensor combine_rows(const MoeShape& shape, const torch::Tensor& rows, const torch::Tensor& topk_weight) {
  torch::Tensor out = torch::empty({shape.tokens, shape.dim}, rows.options());
  parallel_ranges(shape.tokens, row_grain(shape.choices * shape.dim), [&](int64_t begin, int64_t end) {
    moe_combine(shape, floats(rows), floats(topk_weight), begin, end, mutable_floats(out));
  });
  return out;
}

}  // namespace internal

namespace {

using internal::combine_rows;
using internal::expert_gradients;
using internal::expert_rows;
using internal::group_choices;

torch::Tensor few_tokens(const torch::Tensor& x, const torch::Tensor& gate_up, const torch::Tensor& down,
                         const torch::Tensor& topk_index, const torch::Tensor& topk_weight) {
  const MoeShape shape = moe_shape(x, down, topk_index);
  const torch::Tensor rows = torch::empty({shape.assignments(), shape.dim}, x.options());
  internal::few_expert_rows(shape, group_choices(topk_index, shape), moe_input(x, gate_up, down, topk_weight),
                            mutable_floats(rows));
  torch::Tensor out = torch::empty_like(x);
  moe_combine(shape, floats(rows), floats(topk_weight), 0, shape.tokens, mutable_floats(out));
  return out;
}

// Experts kept in bf16, forward only; many tokens go expert by expert through linear_rows().
torch::Tensor half_experts(const torch::Tensor& x, const torch::Tensor& gate_up, const torch::Tensor& down,
                           const torch::Tensor& topk_index, const torch::Tensor& topk_weight) {
  const MoeShape shape = moe_shape(x, down, topk_index);
  const MoeGroups groups = group_choices(topk_index, shape);
  torch::Tensor rows = torch::empty({shape.assignments(), shape.dim}, x.options());
  if (x.size(0) <= kFewRows) {
    rows_of_few(shape, groups, floats(x), halves(gate_up), halves(down), mutable_floats(rows));
    return combine_rows(shape, rows, topk_weight);
  }
  const torch::Tensor order = torch::tensor(groups.assignments, torch::kLong);
  const torch::Tensor by_expert = x.index_select(0, order.div(shape.choices, "floor"));
  for (size_t e = 0; e + 1 < groups.offsets.size(); ++e) {
    const int64_t first = groups.offsets[e], count = groups.offsets[e + 1] - first;
    if (count == 0) continue;
    const auto expert = static_cast<int64_t>(e);
    const torch::Tensor inner = swiglu(linear_rows(by_expert.narrow(0, first, count), gate_up[expert]));
    rows.index_copy_(0, order.narrow(0, first, count), linear_rows(inner, down[expert]));
  }
  return combine_rows(shape, rows, topk_weight);
}

struct MoeFunction : torch::autograd::Function<MoeFunction> {
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& x_any, const torch::Tensor& gate_up_any,
                               const torch::Tensor& down_any, const torch::Tensor& topk_index_any,
                               const torch::Tensor& topk_weight_any) {
    torch::Tensor x = to_fp32(x_any), gate_up = to_fp32(gate_up_any), down = to_fp32(down_any);
    torch::Tensor topk_index = topk_index_any.contiguous(), topk_weight = to_fp32(topk_weight_any);
    const MoeShape shape = moe_shape(x, down, topk_index);
    const MoeGroups groups = group_choices(topk_index, shape);
    torch::Tensor inner = torch::empty({shape.assignments(), 2 * shape.width}, x.options());
    torch::Tensor rows = torch::empty({shape.assignments(), shape.dim}, x.options());
    expert_rows(shape, groups, moe_input(x, gate_up, down, topk_weight), mutable_floats(inner), mutable_floats(rows));
    context->save_for_backward({x, gate_up, down, topk_index, topk_weight, inner});
    context->saved_data["types"] = std::vector<int64_t>{
        static_cast<int64_t>(x_any.scalar_type()), static_cast<int64_t>(gate_up_any.scalar_type()),
        static_cast<int64_t>(down_any.scalar_type()), static_cast<int64_t>(topk_weight_any.scalar_type())};
    return combine_rows(shape, rows, topk_weight).to(x_any.scalar_type());
  }

  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    const auto saved = context->get_saved_variables();
    const torch::Tensor &x = saved[0], &gate_up = saved[1], &down = saved[2], &topk_index = saved[3];
    const torch::Tensor &topk_weight = saved[4], &inner = saved[5];
    const MoeShape shape = moe_shape(x, down, topk_index);
    const MoeGroups groups = group_choices(topk_index, shape);
    torch::Tensor dy = to_fp32(gradients[0]);
    torch::Tensor dx_rows = torch::empty({shape.assignments(), shape.dim}, x.options());
    torch::Tensor dgate_up = torch::empty_like(gate_up), ddown = torch::empty_like(down);
    torch::Tensor dtopk_weight = torch::empty_like(topk_weight);
    const MoeGradients out{mutable_floats(dgate_up), mutable_floats(ddown), mutable_floats(dx_rows),
                           mutable_floats(dtopk_weight)};
    expert_gradients(shape, groups, moe_input(x, gate_up, down, topk_weight), floats(inner), floats(dy), out);
    const auto types = context->saved_data["types"].toIntVector();
    auto cast = [&](const torch::Tensor& t, size_t i) { return t.to(static_cast<torch::ScalarType>(types[i])); };
    return {cast(combine_rows(shape, dx_rows, torch::Tensor()), 0), cast(dgate_up, 1), cast(ddown, 2), torch::Tensor(),
            cast(dtopk_weight, 3)};
  }
};

}  // namespace

torch::Tensor moe_experts(const torch::Tensor& x, const torch::Tensor& gate_up, const torch::Tensor& down,
                          const torch::Tensor& topk_index, const torch::Tensor& topk_weight) {
  TORCH_CHECK(x.dim() == 2 && gate_up.dim() == 3 && down.dim() == 3 && gate_up.size(2) == x.size(1) &&
                  gate_up.size(0) == down.size(0) && down.size(1) == x.size(1) && gate_up.size(1) == 2 * down.size(2),
              "moe_experts: got x ", x.sizes(), ", gate_up ", gate_up.sizes(), ", down ", down.sizes(),
              ", wanted [N, d], [E, 2f, d], [E, d, f]");
  TORCH_CHECK(topk_index.dim() == 2 && topk_index.size(0) == x.size(0) && topk_index.scalar_type() == torch::kLong &&
                  topk_weight.sizes() == topk_index.sizes(),
              "moe_experts: got topk_index ", topk_index.sizes(), ' ', topk_index.scalar_type(), ", topk_weight ",
              topk_weight.sizes(), ", wanted [N, k] int64 and [N, k] for N ", x.size(0));
  if (!internal::has_kernel(x)) return moe_experts_plain(x, gate_up, down, topk_index, topk_weight);
  if (internal::are_few(x.size(0)) && is_plain(x) && is_plain(gate_up) && is_plain(down) && is_plain(topk_weight) &&
      topk_index.is_contiguous()) {
    return few_tokens(x, gate_up, down, topk_index, topk_weight);
  }
  if (c10::InferenceMode::is_enabled() && gate_up.scalar_type() == torch::kBFloat16 && is_plain(x)) {
    return half_experts(x, gate_up, down, topk_index.contiguous(), to_fp32(topk_weight));
  }
  return MoeFunction::apply(x, gate_up, down, topk_index, topk_weight);
}

}  // namespace engram
