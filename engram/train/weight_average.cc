#include "engram/train/weight_average.h"

#include <torch/utils.h>

#include <algorithm>

namespace engram {

WeightAverage::WeightAverage(std::vector<torch::Tensor> weights, double decay) : decay_(decay) {
  const torch::NoGradGuard no_grad;
  for (const torch::Tensor& weight : weights) {
    if (!weight.requires_grad()) continue;
    weights_.push_back(weight.detach());
    average_.push_back(weight.detach().clone());
  }
}

void WeightAverage::add(int64_t n) {
  const torch::NoGradGuard no_grad;
  const double part = std::max(1 - decay_, 1 / static_cast<double>(n + 1));
  if (part == 1) return take();
  at::_foreach_mul_(average_, 1 - part);
  at::_foreach_add_(average_, at::_foreach_mul(weights_, part));
}

void WeightAverage::take() {
  const torch::NoGradGuard no_grad;
  at::_foreach_copy_(average_, weights_);
}

void WeightAverage::swap() {
  const torch::NoGradGuard no_grad;
  for (size_t i = 0; i < weights_.size(); ++i) {
    const torch::Tensor weight = weights_[i].clone();
    weights_[i].copy_(average_[i]);
    average_[i].copy_(weight);
  }
}

}  // namespace engram
