#include "engram/dist/pairwise_sum.h"

#include <ATen/ATen.h>

#include <utility>

namespace engram {
namespace {

// left + right, in the memory of one of them.
std::vector<at::Tensor> added(std::vector<at::Tensor> left, std::vector<at::Tensor> right) {
  TORCH_CHECK(left.size() == right.size(), "a term of a sum has ", right.size(), " tensors, wanted ", left.size());
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < left.size(); ++i) {
    if (!left[i].defined()) {
      left[i] = std::move(right[i]);
    } else if (right[i].defined()) {
      left[i].add_(right[i]);
    }
  }
  return left;
}

}  // namespace

void PairwiseSum::push(std::vector<at::Tensor> term) {
  if (term.empty()) return;
  for (std::vector<at::Tensor>& level : levels_) {
    if (level.empty()) {
      level = std::move(term);
      return;
    }
    term = added(std::exchange(level, {}), std::move(term));
  }
  levels_.push_back(std::move(term));
}

std::vector<at::Tensor> PairwiseSum::finish() {
  std::vector<at::Tensor> sum;
  for (std::vector<at::Tensor>& level : std::exchange(levels_, {})) {  // the later terms are in the lower levels
    if (!level.empty()) sum = sum.empty() ? std::move(level) : added(std::move(level), std::move(sum));
  }
  return sum;
}

at::Tensor pairwise_sum(std::vector<at::Tensor> parts) {
  PairwiseSum sum;
  for (at::Tensor& part : parts) sum.push({std::move(part)});
  std::vector<at::Tensor> total = sum.finish();
  return total.empty() ? at::Tensor() : std::move(total[0]);
}

}  // namespace engram
