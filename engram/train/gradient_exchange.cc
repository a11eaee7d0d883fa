#include "engram/train/gradient_exchange.h"

#include <numeric>
#include <utility>

#include "engram/dist/pairwise_sum.h"
#include "engram/dist/partition.h"

namespace engram {
namespace {

// Parameters begin at multiples of 64 bytes, as libtorch's allocator has it: matrix products may choose their kernel by
// the address.
constexpr int64_t kAlignment = 16;

}  // namespace

GradientExchange::GradientExchange(Communicator& ranks, std::vector<torch::Tensor> parameters,
                                   std::span<const int64_t> costs)
    : ranks_(ranks), parameters_(std::move(parameters)), owners_(balance(costs, ranks.size())) {
  TORCH_CHECK(costs.size() == parameters_.size(), "costs: got ", costs.size(), ", wanted ", parameters_.size());
  if (ranks_.size() == 1) return;
  const torch::NoGradGuard no_grad;
  sizes_.resize(static_cast<size_t>(ranks_.size()));
  for (size_t i = 0; i < parameters_.size(); ++i) {
    TORCH_CHECK(parameters_[i].is_cpu() && parameters_[i].scalar_type() == torch::kFloat,
                "several ranks train fp32 parameters on the CPU, got ", parameters_[i].scalar_type(), " on ",
                parameters_[i].device());
    int64_t& size = sizes_[static_cast<size_t>(owners_[i])];
    places_.push_back({size});
    size += (parameters_[i].numel() + kAlignment - 1) / kAlignment * kAlignment;
  }
  for (const int64_t size : sizes_) values_.push_back(torch::zeros({size}));
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const torch::Tensor home = places_[i].of(values_[static_cast<size_t>(owners_[i])], parameters_[i]);
    home.copy_(parameters_[i]);
    parameters_[i].set_data(home);
  }
  sent_ = torch::zeros({std::accumulate(sizes_.begin(), sizes_.end(), int64_t{0})});
  received_ = torch::empty({ranks_.size() * sizes_[static_cast<size_t>(ranks_.rank())]});
}

void GradientExchange::start_sum(std::vector<torch::Tensor> gradients) {
  gradients_ = std::move(gradients);
  if (ranks_.size() == 1) return;
  const torch::NoGradGuard no_grad;
  const std::vector<torch::Tensor> sending = sent_.split_with_sizes(sizes_);
  for (size_t i = 0; i < gradients_.size(); ++i) {
    torch::Tensor place = places_[i].of(sending[static_cast<size_t>(owners_[i])], parameters_[i]);
    if (gradients_[i].defined()) {
      place.copy_(gradients_[i]);
    } else {
      place.zero_();
    }
  }
  const std::vector<int64_t> mine(sizes_.size(), sizes_[static_cast<size_t>(ranks_.rank())]);
  exchanges_.push_back(ranks_.all_to_all(Channel::kDense, received_, mine, sent_, sizes_));
}

std::vector<torch::Tensor> GradientExchange::finish_sum() {
  std::vector<torch::Tensor> gradients = std::exchange(gradients_, {});
  if (ranks_.size() == 1) return gradients;
  wait();
  const torch::NoGradGuard no_grad;
  const torch::Tensor total =
      pairwise_sum(received_.split(std::max<int64_t>(sizes_[static_cast<size_t>(ranks_.rank())], 1)));
  for (size_t i = 0; i < gradients.size(); ++i)
    gradients[i] = owns(i) && gradients[i].defined() ? places_[i].of(total, parameters_[i]) : torch::Tensor();
  return gradients;
}

void GradientExchange::start_return() {
  std::vector<int> owners(sizes_.size());
  std::iota(owners.begin(), owners.end(), 0);
  start_broadcast(owners);
}

void GradientExchange::wait() {
  for (Exchange& exchange : exchanges_) exchange.wait();
  exchanges_.clear();
}

void GradientExchange::send_parameters() {
  start_broadcast(std::vector<int>(sizes_.size(), 0));
  wait();
}

void GradientExchange::start_broadcast(std::span<const int> roots) {
  for (size_t part = 0; part < roots.size(); ++part)
    if (sizes_[part] > 0) exchanges_.push_back(ranks_.broadcast(Channel::kDense, values_[part], roots[part]));
}

}  // namespace engram
