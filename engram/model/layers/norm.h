// RmsNorm and Linear: the two smallest modules, each one weight with a dotted name.
//
// Both take rows: x [.., d]. Bad shapes throw c10::Error. NoAutocast marks arithmetic that stays in fp32 when the
// trainer runs the rest in bf16 (routers, hyper-connections).
#pragma once
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/nn/module.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engram/dist/partition.h"

namespace engram {

// A fresh weight ~ N(0, std). std 0: nothing is drawn, the caller writes all of it (a large model, on its device).
inline torch::Tensor initial_weight(torch::IntArrayRef sizes, double std) {
  return std > 0 ? torch::randn(sizes) * std : torch::empty(sizes);
}

// Rows [rows.begin, rows.end) of initial_weight(sizes, std): all of it is drawn, and no more than they are kept.
torch::Tensor initial_rows(torch::IntArrayRef sizes, double std, Range rows);

class RmsNormImpl : public torch::nn::Module {
 public:
  RmsNormImpl(int64_t size, double eps);
  torch::Tensor forward(const torch::Tensor& x);

  torch::Tensor weight;  // [size], ones at the start

 private:
  double eps_;
};
TORCH_MODULE(RmsNorm);

// A low-rank change of some rows of a projection: scale * B A x. A [rank, in] ~ U(-1 / sqrt(in), 1 / sqrt(in)), as PEFT
// draws it, B [rows, rank] zero: parameters lora_A and lora_B.
class LowRankImpl : public torch::nn::Module {
 public:
  LowRankImpl(int64_t in, int64_t rows, int64_t rank, double scale, torch::TensorOptions options);
  torch::Tensor forward(const torch::Tensor& x);

 private:
  torch::Tensor a_, b_;
  double scale_;
};

// x W^T, + b where there is a bias; W [out, in] ~ N(0, std), b zero. Under autocast the product runs in the autocast
// dtype.
class LinearImpl : public torch::nn::Module {
 public:
  LinearImpl(int64_t in, int64_t out, double std, bool with_bias = false);
  torch::Tensor forward(const torch::Tensor& x);
  // Rows [rows.begin, rows.end) get a low-rank change, a child module of this name. Calls go from the first rows on.
  void add_low_rank(const std::string& name, Range rows, int64_t rank, double scale);

  torch::Tensor weight;
  torch::Tensor bias;  // [out], or undefined

 private:
  std::vector<std::pair<Range, std::shared_ptr<LowRankImpl>>> changes_;
};
TORCH_MODULE(Linear);

class NoAutocast {
 private:
  c10::impl::ExcludeDispatchKeyGuard guard_{c10::autocast_dispatch_keyset};
};

// fp32 for reduced precision; fp32 and double stay as they are.
inline torch::Tensor at_least_float(const torch::Tensor& x) {
  return x.scalar_type() == torch::kDouble ? x : x.to(torch::kFloat);
}

}  // namespace engram
