#include "bench/ops_bench.h"

#include <ctime>
#include <functional>
#include <limits>

#include "engram/model/ops/ops.h"

namespace engram::bench {
namespace {

using torch::Tensor;
using Tensors = std::vector<Tensor>;
using Op = std::function<Tensor(const Tensors&)>;

struct Case {
  std::string name;
  Op fused, plain;
  Tensors inputs;  // leaves
};

// One thread is timed by its CPU time, which other programs do not change; several by the wall.
double now_us() {
  timespec time{};
  clock_gettime(at::get_num_threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return 1e6 * static_cast<double>(time.tv_sec) + 1e-3 * static_cast<double>(time.tv_nsec);
}

// One forward and backward pass in microseconds.
double pass_us(const Op& op, const Tensors& inputs, const Tensor& gradient) {
  for (const Tensor& input : inputs) input.mutable_grad() = Tensor();
  const double start = now_us();
  op(inputs).backward(gradient);
  return now_us() - start;
}

OpsBenchRow measure(const Case& c, double seconds) {
  Tensor gradient = torch::randn_like(c.fused(c.inputs).detach().to(torch::kFloat));
  if (gradient.dim() == 0) gradient.fill_(1);
  OpsBenchRow row{c.name, std::numeric_limits<double>::max(), std::numeric_limits<double>::max()};
  for (int i = 0; i < 2; ++i) {
    pass_us(c.fused, c.inputs, gradient);
    pass_us(c.plain, c.inputs, gradient);
  }
  for (double spent_us = 0; spent_us < seconds * 1e6;) {
    const double fused = pass_us(c.fused, c.inputs, gradient), plain = pass_us(c.plain, c.inputs, gradient);
    row.fused_us = std::min(row.fused_us, fused);
    row.plain_us = std::min(row.plain_us, plain);
    spent_us += fused + plain;
  }
  return row;
}

Tensor leaf(torch::IntArrayRef sizes, double scale = 1) {
  return (torch::randn(sizes) * scale).set_requires_grad(true);
}

// The whole Engram module: gather, projection, gates and convolution. The rows' gradient is part of it.
Case engram_module(const OpsBenchOptions& o) {
  constexpr int64_t kRowsPerToken = 8, kRowDim = 8;
  const int64_t m = o.streams, d = o.hidden_size, unique = o.batch * o.length * kRowsPerToken / 2;
  Tensor index = torch::randint(0, unique, {o.batch, o.length, kRowsPerToken}, torch::kLong);
  auto with = [=](auto gather, auto fuse) {
    return [=](const Tensors& t) {
      Tensor projected = torch::linear(gather(t[1], index), t[2]);
      return fuse(t[0], projected, t[3], t[4], t[5], t[6], Tensor(), EngramFuseOptions()).first;
    };
  };
  using Gather = Tensor (*)(const Tensor&, const Tensor&);
  Tensors inputs{leaf({o.batch, o.length, m, d}),
                 leaf({unique, kRowDim}),
                 leaf({(m + 1) * d, kRowsPerToken * kRowDim}),
                 leaf({m, d}),
                 leaf({m, d}),
                 leaf({m, d}),
                 leaf({m * d, 4}, 0.1)};
  return {"engram module", with(static_cast<Gather>(gather_rows), engram_fuse),
          with(static_cast<Gather>(gather_rows_plain), engram_fuse_plain), inputs};
}

std::vector<Case> cases(const OpsBenchOptions& o) {
  const int64_t n = o.batch * o.length, d = o.hidden_size, heads = 4, half = 8;
  constexpr int64_t kExperts = 42, kWidth = 32, kChoices = 2;
  Tensor targets = torch::randint(0, o.vocabulary, {n}, torch::kLong);
  Tensor choice = std::get<1>(torch::rand({n, kExperts}).topk(kChoices, 1));
  Tensor angle = torch::randn({o.length, half}), cos = angle.cos(), sin = angle.sin();
  auto moe = [=](auto op) { return [=](const Tensors& t) { return op(t[0], t[1], t[2], choice, t[3]); }; };
  auto loss = [=](auto op, bool bf16) {
    return [=](const Tensors& t) {
      return bf16 ? op(t[0].to(torch::kBFloat16), t[1], targets, false) : op(t[0], t[1], targets, false);
    };
  };
  auto rope = [=](auto op) { return [=](const Tensors& t) { return op(t[0], cos, sin, true); }; };
  auto norm = [](auto op) { return [=](const Tensors& t) { return op(t[0], t[1], 1e-6); }; };
  const Tensors head{leaf({n, d}), leaf({o.vocabulary, d}, 0.1)};
  return {
      engram_module(o),
      {"linear_cross_entropy fp32", loss(linear_cross_entropy, false), loss(linear_cross_entropy_plain, false), head},
      {"linear_cross_entropy bf16", loss(linear_cross_entropy, true), loss(linear_cross_entropy_plain, true), head},
      {"moe_experts",
       moe(moe_experts),
       moe(moe_experts_plain),
       {leaf({n, d}), leaf({kExperts, 2 * kWidth, d}, 0.1), leaf({kExperts, d, kWidth}, 0.1),
        torch::rand({n, kChoices}).set_requires_grad(true)}},
      {"rms_norm", norm(rms_norm), norm(rms_norm_plain), {leaf({n, d}), leaf({d})}},
      {"swiglu",
       [](const Tensors& t) { return swiglu(t[0]); },
       [](const Tensors& t) { return swiglu_plain(t[0]); },
       {leaf({n, 4 * d})}},
      {"apply_rope", rope(apply_rope), rope(apply_rope_plain), {leaf({o.batch, o.length, heads, 2 * half})}},
  };
}

}  // namespace

std::vector<OpsBenchRow> run_ops_bench(const OpsBenchOptions& options) {
  const int before = at::get_num_threads();
  if (options.threads > 0) at::set_num_threads(options.threads);
  torch::manual_seed(1);
  std::vector<OpsBenchRow> rows;
  for (const Case& c : cases(options)) rows.push_back(measure(c, options.seconds));
  at::set_num_threads(before);
  return rows;
}

}  // namespace engram::bench
