// Matrix products of the sizes that the kernels are called with.
#include <ATen/core/dispatch/Dispatcher.h>

#include "bench/ops_cases.h"
#include "engram/core/status.h"
#include "engram/kernels/gemm.h"
#include "engram/kernels/gemm_bf16.h"
#include "engram/kernels/gemv.h"
#include "engram/model/ops/ops.h"
#include "engram/model/ops/parallel.h"
#include "engram/train/muon.h"

namespace engram::bench {
namespace {

constexpr double kBf16 = 3e-2;

// x w^T by oneDNN, which at::linear takes for bf16 only. packed: w in oneDNN's own order, made beforehand.
OpsSide onednn(const Tensor& x, const Tensor& w, bool packed, double tolerance) {
  using Linear = Tensor(const Tensor&, const Tensor&, const std::optional<Tensor>&, std::string_view,
                        c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);
  using Reorder = Tensor(const Tensor&, std::optional<int64_t>);
  auto& dispatcher = c10::Dispatcher::singleton();
  static const auto linear = dispatcher.findSchemaOrThrow("mkldnn::_linear_pointwise", "").typed<Linear>();
  static const auto reorder = dispatcher.findSchemaOrThrow("mkldnn::_reorder_linear_weight", "").typed<Reorder>();
  const Tensor weight = packed ? reorder.call(w, x.size(0)) : w;
  return {packed ? "oneDNN linear, packed weight" : "oneDNN linear",
          [=]() -> Tensors {
            return {linear.call(x, weight, std::nullopt, "none", c10::List<std::optional<at::Scalar>>(), "")};
          },
          tolerance};
}

// Some rows of the product on each thread, as callers share it out.
void gemm_rows(int64_t m, const std::function<void(int64_t begin, int64_t count)>& work) {
  parallel_ranges(m, /*grain=*/24, [&](int64_t begin, int64_t end) { work(begin, end - begin); });
}

void gemm_cases(const OpsShape& s, OpsCases& cases) {
  const int64_t m = s.tokens() * kChoices / s.experts, n = 2 * s.width, k = s.dim;
  const Tensor x = torch::randn({m, k}), w = torch::randn({n, k}), w_t = w.t().contiguous(), g = torch::randn({m, n});
  const OpsCost cost{.flops = 2.0 * static_cast<double>(m * n * k)};
  const Tensor y = torch::empty({m, n}), y2 = torch::empty({m, n}), dw = torch::empty({n, k}),
               dw2 = torch::empty({n, k});
  const auto ours = [](const Tensor& a, bool transposed, const Tensor& b, const Tensor& c) {
    return [=]() -> Tensors {
      const int64_t inner = b.size(0), columns = b.size(1), row = a.stride(transposed ? 1 : 0);
      gemm_rows(c.size(0), [&](int64_t begin, int64_t count) {
        gemm(count, columns, inner, {a.const_data_ptr<float>() + begin * row, row, a.stride(transposed ? 0 : 1)},
             b.const_data_ptr<float>(), columns, c.mutable_data_ptr<float>() + begin * columns, columns, false);
      });
      return {c};
    };
  };
  const auto mm = [](const Tensor& a, const Tensor& b, Tensor out) {
    return [=]() mutable -> Tensors { return {at::mm_out(out, a, b)}; };
  };
  cases.push_back({"an expert's first product",
                   ours(x, false, w_t, y),
                   {{"mm", mm(x, w_t, y2)},
                    {"mm, weight transposed", mm(x, w.t(), y2)},
                    onednn(x, w, false, 1e-3),
                    onednn(x, w, true, 1e-3)},
                   cost});
  cases.push_back({"its weight gradient", ours(g, true, x, dw), {{"mm", mm(g.t(), x, dw2)}}, cost});
}

// A chunk of tokens with the whole head, in the panels of cross_entropy.cc.
void gemm_bf16_cases(const OpsShape& s, OpsCases& cases) {
  if (!bf16_gemm_supported()) return;
  constexpr int64_t kRows = 64, kPanel = 128;
  const int64_t words = s.dim / 2, panels = s.vocabulary / kPanel;
  const Tensor x = torch::randn({kRows, s.dim}).to(torch::kBFloat16);
  const Tensor w = torch::randn({s.vocabulary, s.dim}).to(torch::kBFloat16);
  // Words along k: [panels, words, kPanel].
  const Tensor packed = w.view(torch::kInt).view({panels, kPanel, words}).transpose(1, 2).contiguous();
  Tensor y = torch::empty({panels, kRows, kPanel}), y2 = torch::empty({kRows, s.vocabulary}, torch::kBFloat16);
  const auto ours = [=]() -> Tensors {
    const auto words_of = [](const Tensor& t) { return static_cast<const uint32_t*>(t.const_data_ptr()); };
    parallel_tasks(panels, [&](int64_t p) {
      gemm_bf16(kRows, kPanel, words, {words_of(x), words, 1}, words_of(packed) + p * words * kPanel, kPanel,
                y.mutable_data_ptr<float>() + p * kRows * kPanel, kPanel, false);
    });
    return {y.transpose(0, 1)};
  };
  cases.push_back({"64 rows with the head",
                   ours,
                   {{"linear (oneDNN)", inference([=] { return at::linear(x, w); }), kBf16},
                    {"mm into a matrix", [=]() mutable -> Tensors { return {at::mm_out(y2, x, w.t())}; }, kBf16},
                    onednn(x, w, /*packed=*/true, kBf16)},
                   {.flops = 2.0 * static_cast<double>(kRows * s.dim * s.vocabulary), .bf16 = true}});
}

void gemv_cases(const OpsShape& s, OpsCases& cases) {
  const auto add = [&](const std::string& work, int64_t rows, int64_t outputs) {
    const Tensor x = torch::randn({rows, s.dim}), w = torch::randn({outputs, s.dim});
    OpsCase c{
        work,
        inference([=] { return linear_rows(x, w); }),
        {{"linear", inference([=] { return at::linear(x, w); })}, onednn(x, w, false, 1e-3), onednn(x, w, true, 1e-3)},
        {.bytes = 4.0 * static_cast<double>(w.numel())}};
    if (rows == 1) c.rivals.push_back({"mv", inference([=] { return at::mv(w, x[0]); })});
    cases.push_back(c);
  };
  add("1 row with the head", 1, s.vocabulary);
  add("8 rows with the head", 8, s.vocabulary);
  add("8 rows with a projection", 8, s.heads * (s.nope + s.rope) + s.latent + s.rope);
}

// The whole batch at once, as newton_schulz() does it on other devices.
Tensor batched_newton_schulz(const Tensor& matrices, int64_t steps) {
  constexpr double kA = 3.4445, kB = -4.7750, kC = 2.0315;
  Tensor x = matrices / matrices.norm(2, {1, 2}, /*keepdim=*/true), next = torch::empty_like(x);
  Tensor gram = torch::empty({x.size(0), x.size(2), x.size(2)}, x.options()), polynomial = torch::empty_like(gram);
  for (int64_t i = 0; i < steps; ++i) {
    at::bmm_out(gram, x.transpose(1, 2), x);
    at::baddbmm_out(polynomial, gram, gram, gram, kB, kC);
    at::baddbmm_out(next, x, x, polynomial, kA, 1);
    std::swap(x, next);
  }
  return x;
}

void newton_schulz_cases(const OpsShape& s, OpsCases& cases) {
  constexpr int64_t kSteps = 5;
  const int64_t count = 2 * s.experts, rows = s.dim, columns = s.width;  // gate and up of every expert
  const Tensor gradients = torch::randn({count, rows, columns}), work = torch::empty_like(gradients);
  const double flops = 2.0 * kSteps * static_cast<double>(count * columns * columns * (2 * rows + columns));
  cases.push_back({fmt::format("{} matrices of {} x {}", count, rows, columns),
                   inference([=] { return newton_schulz(work.copy_(gradients), kSteps); }),
                   {{"bmm", inference([=] { return batched_newton_schulz(gradients, kSteps); })}},
                   {.flops = flops}});
}

}  // namespace

std::vector<OpsKernel> product_kernels() {
  return {{"gemm", gemm_cases},
          {"gemm_bf16", gemm_bf16_cases},
          {"gemv", gemv_cases},
          {"newton_schulz", newton_schulz_cases}};
}

}  // namespace engram::bench
