#include "engram/train/matrix_rate.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <tuple>

#include "engram/core/machine.h"
#include "engram/core/status.h"

namespace engram {
namespace {

struct StatedRate {
  const char* model;  // a part of its name; the first that fits
  double bf16, fp32;  // teraflops of dense products; of fp32 without TF32, as torch multiplies unless told otherwise
};
constexpr StatedRate kStated[] = {
    {"B200", 2250, 75},  {"H200", 989.4, 67},     {"H100 PCIe", 756, 51}, {"H100 NVL", 835, 60},
    {"H100", 989.4, 67}, {"A100", 312, 19.5},     {"A10G", 70, 31.2},     {"L40S", 362, 91.6},
    {"L4", 121, 30.3},   {"RTX 4090", 165, 82.6}, {"RTX 3090", 71, 35.6}, {"RTX 6000 Ada", 364, 91.1},
};

// The best of products of two matrices of `size` rows and columns within about `budget` seconds, three at least.
double measure(torch::Device device, torch::Dtype dtype, int64_t size, double budget) {
  const torch::NoGradGuard no_grad;
  const torch::Tensor a = torch::full({size, size}, 0.5, torch::TensorOptions().device(device).dtype(dtype));
  torch::Tensor c = torch::empty_like(a);
  double best = 1e30, spent = 0;
  for (int round = 0; round < 4 || spent < budget; ++round) {
    const auto start = std::chrono::steady_clock::now();
    at::mm_out(c, a, a);
    if (!device.is_cpu()) c[0][0].item<float>();  // waits
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (round > 0) best = std::min(best, seconds);  // the first one sets up
    spent += seconds;
  }
  return 2.0 * static_cast<double>(size) * static_cast<double>(size) * static_cast<double>(size) / best;
}

double measure(torch::Device device, torch::Dtype dtype) {
  if (!device.is_cpu()) return measure(device, dtype, 8192, 0.2);
  double best = 0;
  for (const int64_t size : {256, 512, 1024}) {
    best = std::max(best, measure(device, dtype, size, size == 1024 ? 0.1 : 0.0));
    // A processor that only emulates the type would take seconds for the next size.
    if (static_cast<double>(size * size * size) * 2 / best > 0.02) break;
  }
  return best;
}

}  // namespace

std::optional<double> stated_matrix_rate(std::string_view machine, bool bf16) {
  for (const StatedRate& rate : kStated)
    if (machine.find(rate.model) != std::string_view::npos) return (bf16 ? rate.bf16 : rate.fp32) * 1e12;
  return std::nullopt;
}

MatrixRate matrix_rate(torch::Device device, bool bf16) {
  if (device.is_cuda())
    if (const auto stated = stated_matrix_rate(machine_description(), bf16)) return {*stated, "stated"};
  const int threads = at::get_num_threads();
  static std::mutex mutex;
  static std::map<std::tuple<bool, bool, int>, double> measured;
  const std::lock_guard lock(mutex);
  double& flops = measured[{device.is_cpu(), bf16, threads}];
  if (flops == 0) {
    flops = measure(device, torch::kFloat);
    if (bf16) flops = std::max(flops, measure(device, torch::kBFloat16));
  }
  return {flops, device.is_cpu() ? fmt::format("measured, {} threads", threads) : "measured"};
}

}  // namespace engram
