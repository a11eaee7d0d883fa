#include "bench/ops_bench.h"

#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <ctime>
#include <limits>

#include "bench/machine_rates.h"
#include "bench/ops_cases.h"
#include "bench/process.h"
#include "engram/core/json.h"
#include "engram/kernels/gemm_bf16.h"
#include "engram/model/ops/parallel.h"

namespace engram::bench {
namespace {

constexpr OpsShape kShapes[] = {
    {.name = "demo",
     .bf16 = false,
     .batch = 8,
     .length = 256,
     .dim = 64,
     .heads = 4,
     .latent = 32,
     .nope = 16,
     .rope = 8,
     .value = 16,
     .experts = 42,
     .width = 32,
     .vocabulary = 8192,
     .rows_per_token = 8,
     .row_dim = 8,
     .table_rows = 1 << 14},
    {.name = "xs",
     .bf16 = true,
     .batch = 8,
     .length = 256,
     .dim = 64,
     .heads = 4,
     .latent = 32,
     .nope = 16,
     .rope = 8,
     .value = 16,
     .experts = 60,
     .width = 32,
     .vocabulary = 8192,
     .rows_per_token = 8,
     .row_dim = 8,
     .table_rows = 1 << 15},
    {.name = "d512",
     .bf16 = true,
     .batch = 2,
     .length = 512,
     .dim = 512,
     .heads = 8,
     .latent = 128,
     .nope = 64,
     .rope = 32,
     .value = 64,
     .experts = 32,
     .width = 256,
     .vocabulary = 32768,
     .rows_per_token = 16,
     .row_dim = 64,
     .table_rows = 1 << 18},
};

std::vector<OpsKernel> all_kernels() {
  std::vector<OpsKernel> kernels = layer_kernels();
  for (const auto& more : {product_kernels(), row_kernels()}) kernels.insert(kernels.end(), more.begin(), more.end());
  std::ranges::sort(kernels, {}, [](const OpsKernel& kernel) { return std::string_view(kernel.name); });
  return kernels;
}

double now_us() {
  timespec time{};
  clock_gettime(at::get_num_threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return 1e6 * static_cast<double>(time.tv_sec) + 1e-3 * static_cast<double>(time.tv_nsec);
}

// One participant's times. A call shorter than the clock is good for is repeated.
class Timer {
 public:
  explicit Timer(std::function<void()> call) : call_(std::move(call)) {}

  void warm_up() {
    const double start = now_us();
    call_();
    constexpr double kSampleUs = 200;
    repeats_ = static_cast<int>(std::clamp(kSampleUs / std::max(now_us() - start, 0.1), 1.0, 2000.0));
  }
  double sample() {  // the time that it took
    const double start = now_us();
    for (int i = 0; i < repeats_; ++i) call_();
    const double spent = now_us() - start;
    samples_.push_back(spent / repeats_);
    return spent;
  }
  OpsTime time() const { return {spread_of(samples_).low, spread_of(samples_).median}; }

 private:
  std::function<void()> call_;
  int repeats_ = 1;
  std::vector<double> samples_;
};

// All in turn until the time is used, each first in turn.
void run_rounds(std::vector<Timer>& timers, double seconds, int64_t least_rounds) {
  for (Timer& timer : timers) timer.warm_up();
  double spent = 0;
  for (size_t round = 0; std::cmp_less(round, least_rounds) || spent < seconds * 1e6; ++round) {
    for (size_t i = 0; i < timers.size(); ++i) spent += timers[(round + i) % timers.size()].sample();
  }
}

// A copy that reads and writes `bytes` in all, over all threads.
std::function<void()> copy_of(double bytes) {
  const auto size = static_cast<int64_t>(bytes / 2) + 1;
  const Tensor from = torch::ones({size}, torch::kByte), to = torch::zeros({size}, torch::kByte);
  return [=] {
    parallel_ranges(size, int64_t{1} << 16, [&](int64_t begin, int64_t end) {
      std::memcpy(to.mutable_data_ptr<uint8_t>() + begin, from.const_data_ptr<uint8_t>() + begin,
                  static_cast<size_t>(end - begin));
    });
  };
}

// The best of a few rounds over all threads, in 1e9 a second. work does `amount` on each thread.
double best_rate(int64_t rounds, double amount, const std::function<void()>& work) {
  double best = std::numeric_limits<double>::max();
  for (int64_t i = 0; i < rounds; ++i) {
    const double start = now_us();
    parallel_tasks(parallel_threads(), [&](int64_t) { work(); });
    best = std::min(best, now_us() - start);
  }
  return amount * static_cast<double>(parallel_threads()) / best * 1e-3;
}

// The kernel's product of operands that stay in the first cache, or libtorch's large one, whichever is faster.
double bf16_rate(int64_t rounds) {
  constexpr int64_t kRows = 48, kColumns = 64, kWords = 64, kLarge = 1024;
  double best = 0;
  if (bf16_gemm_supported()) {
    const std::vector<uint32_t> a(kRows * kWords), b(kWords * kColumns);
    best = best_rate(rounds, 100 * 4.0 * kRows * kColumns * kWords, [&] {
      std::vector<float> c(kRows * kColumns);
      for (int i = 0; i < 100; ++i)
        gemm_bf16(kRows, kColumns, kWords, {a.data(), kWords, 1}, b.data(), kColumns, c.data(), kColumns, false);
    });
  }
  const Tensor x = torch::randn({kLarge, kLarge}).to(torch::kBFloat16);
  Tensor y = x.mm(x);
  for (int64_t i = 0; i < std::min<int64_t>(rounds, 5); ++i) {
    const double start = now_us();
    at::mm_out(y, x, x);
    best = std::max(best, 2.0 * kLarge * kLarge * kLarge / (now_us() - start) * 1e-3);
  }
  return best;
}

void measure_machine(OpsBenchResult& result, bool quick) {
  constexpr int64_t kMultiplyAdds = 1 << 20;
  const int64_t rounds = quick ? 2 : 50;
  float sink = 0;
  result.fp32_gflops = best_rate(rounds, multiply_adds(kMultiplyAdds, &sink), [] {
    float own = 0;
    multiply_adds(kMultiplyAdds, &own);
  });
  result.bf16_gflops = std::max(bf16_rate(rounds), result.fp32_gflops);
  std::vector<Timer> copies;
  constexpr double kBytes = 512 << 20;  // 256 MiB from here to there
  copies.emplace_back(copy_of(quick ? kBytes / 64 : kBytes));
  run_rounds(copies, 0, rounds / 5 + 1);
  result.copy_gb = (quick ? kBytes / 64 : kBytes) / copies[0].time().least_us * 1e-3;
}

// The first results of each side beside ours.
Status compare(const std::string& name, const OpsCase& c) {
  const Tensors ours = c.ours();
  for (const OpsSide& rival : c.rivals) {
    const Tensors theirs = rival.call();
    if (rival.tolerance < 0) continue;
    if (theirs.size() != ours.size()) {
      return make_status(StatusCode::kInternal, "{}, {}: got {} results, wanted {}", name, rival.name, theirs.size(),
                         ours.size());
    }
    for (size_t i = 0; i < ours.size(); ++i) {
      const Tensor wanted = ours[i].detach().to(torch::kDouble), got = theirs[i].detach().to(torch::kDouble);
      const double largest = wanted.abs().max().item<double>();
      const double difference = (got.view_as(wanted) - wanted).abs().max().item<double>();
      if (!(difference <= rival.tolerance * std::max(largest, 1e-30))) {
        return make_status(StatusCode::kInternal, "{}, {}, result {}: differs from ours by {} of at most {}", name,
                           rival.name, i, difference, largest);
      }
    }
  }
  return {};
}

OpsBenchRow measure(const OpsCase& c, const OpsBenchOptions& options, const OpsBenchResult& machine) {
  std::vector<Timer> timers;
  timers.emplace_back([&] { c.ours(); });
  for (const OpsSide& rival : c.rivals) timers.emplace_back([&] { rival.call(); });
  if (c.cost.bytes > 0) timers.emplace_back(copy_of(c.cost.bytes));
  run_rounds(timers, options.quick ? 0 : options.seconds, options.quick ? 1 : 5);

  OpsBenchRow row;
  row.work = c.work;
  row.ours = timers[0].time();
  for (size_t i = 0; i < c.rivals.size(); ++i) row.rivals.emplace_back(c.rivals[i].name, timers[i + 1].time());
  std::ranges::sort(row.rivals, {}, [](const auto& rival) { return rival.second.least_us; });
  const double copy_us = c.cost.bytes > 0 ? timers.back().time().least_us : 0;
  const double flops_us = c.cost.flops / (c.cost.bf16 ? machine.bf16_gflops : machine.fp32_gflops) * 1e-3;
  row.limit_us = std::max(copy_us, flops_us);
  row.arithmetic = flops_us >= copy_us;
  row.rate = (row.arithmetic ? c.cost.flops : c.cost.bytes) / row.ours.least_us * 1e-3;
  return row;
}

Status run_cases(const OpsBenchOptions& options, OpsBenchResult& result) {
  measure_machine(result, options.quick);
  for (const OpsKernel& kernel : all_kernels()) {
    result.kernels.push_back(kernel.name);
    if (!options.only.empty() && options.only != kernel.name) continue;
    for (const OpsShape& shape : kShapes) {
      if (options.shape.empty() ? options.quick && &shape != kShapes : options.shape != shape.name) continue;
      torch::manual_seed(1);
      OpsCases cases;
      kernel.add_cases(shape, cases);
      for (const OpsCase& c : cases) {
        ENGRAM_RETURN_IF_ERROR(compare(fmt::format("{} {}, {}", kernel.name, c.work, shape.name), c));
        result.rows.push_back(measure(c, options, result));
        result.rows.back().kernel = kernel.name;
        result.rows.back().shape = shape.name;
      }
    }
  }
  return {};
}

template <typename List>
Status check_name(const char* field, const std::string& name, const List& known) {
  std::string names;
  for (const auto& each : known) {
    if (name.empty() || name == each.name) return {};
    names += std::string(names.empty() ? "" : ", ") + each.name;
  }
  return invalid_argument("bench ops: {}: got {}, wanted one of {}", field, quote_text(name), names);
}

}  // namespace

Tensor leaf(torch::IntArrayRef sizes, double scale, torch::Dtype dtype) {
  return (torch::randn(sizes) * scale).to(dtype).set_requires_grad(true);
}

std::function<Tensors()> inference(const std::function<Tensor()>& call) {
  return [=]() -> Tensors {
    const c10::InferenceMode guard;
    return {call()};
  };
}

void add_passes(OpsCases& cases, const std::string& prefix, const Tensors& leaves, const OpsWay& ours,
                const std::vector<OpsWay>& rivals, const OpsCost& forward, const OpsCost& both) {
  const Tensor out = ours.op(leaves).detach();
  const Tensor gradient = out.dim() == 0 ? torch::ones_like(out) : torch::randn_like(out);
  const auto once = [=](const auto& op) { return inference([=] { return op(leaves); }); };
  const auto there_and_back = [=](const auto& op) {
    return [=]() -> Tensors {
      for (const Tensor& input : leaves) input.mutable_grad() = Tensor();
      Tensors results{op(leaves)};
      results[0].backward(gradient);
      for (const Tensor& input : leaves) results.push_back(input.grad());
      return results;
    };
  };
  OpsCase one{prefix + "forward", once(ours.op), {}, forward};
  OpsCase two{prefix + "forward+backward", there_and_back(ours.op), {}, both};
  for (const OpsWay& rival : rivals) {
    one.rivals.push_back({rival.name, once(rival.op), rival.tolerance});
    two.rivals.push_back({rival.name, there_and_back(rival.op), rival.tolerance});
  }
  cases.push_back(std::move(one));
  cases.push_back(std::move(two));
}

Result<OpsBenchResult> run_ops_bench(const OpsBenchOptions& options) {
  ENGRAM_RETURN_IF_ERROR(check_name("kernel", options.only, all_kernels()));
  ENGRAM_RETURN_IF_ERROR(check_name("shape", options.shape, kShapes));
  const int before = at::get_num_threads();
  if (options.threads > 0) at::set_num_threads(options.threads);
  OpsBenchResult result;
  result.threads = at::get_num_threads();
  const Status status = run_cases(options, result);
  at::set_num_threads(before);
  ENGRAM_RETURN_IF_ERROR(status);
  return result;
}

}  // namespace engram::bench
