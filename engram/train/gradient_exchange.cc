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
  for (size_t i = 0; i < costs.size(); ++i)
    if (costs[i] == kStays) owners_[i] = ranks_.rank();
  if (ranks_.size() == 1) return;
  const torch::NoGradGuard no_grad;
  sizes_.resize(static_cast<size_t>(ranks_.size()));
  places_.resize(parameters_.size());
  for (size_t i = 0; i < parameters_.size(); ++i) {
    TORCH_CHECK(parameters_[i].is_cpu() && parameters_[i].scalar_type() == torch::kFloat,
                "several ranks train fp32 parameters on the CPU, got ", parameters_[i].scalar_type(), " on ",
                parameters_[i].device());
    if (costs[i] == kStays) continue;
    int64_t& size = sizes_[static_cast<size_t>(owners_[i])];
    places_[i].begin = size;
    size += (parameters_[i].numel() + kAlignment - 1) / kAlignment * kAlignment;
  }
  to_ = sizes_;
  to_[own()] = 0;
  from_.assign(sizes_.size(), sizes_[own()]);
  from_[own()] = 0;
  begins_.resize(sizes_.size());
  std::exclusive_scan(to_.begin(), to_.end(), begins_.begin(), int64_t{0});
  const int64_t others = std::accumulate(to_.begin(), to_.end(), int64_t{0});
  begins_[own()] = others;
  values_ = torch::zeros({others + sizes_[own()]});
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (places_[i].stays()) continue;
    places_[i].begin += begins_[static_cast<size_t>(owners_[i])];
    const torch::Tensor home = places_[i].of(values_, parameters_[i]);
    home.copy_(parameters_[i]);
    parameters_[i].set_data(home);
  }
  sent_ = torch::zeros({others});
  received_ = torch::empty({ranks_.size() - 1, sizes_[own()]});
}

void GradientExchange::start_sum(std::vector<torch::Tensor> gradients) {
  gradients_ = std::move(gradients);
  if (ranks_.size() == 1) return;
  const torch::NoGradGuard no_grad;
  for (size_t i = 0; i < gradients_.size(); ++i) {
    if (owns(i)) continue;
    torch::Tensor place = places_[i].of(sent_, parameters_[i]);
    if (gradients_[i].defined()) {
      place.copy_(gradients_[i]);
    } else {
      place.zero_();
    }
  }
  exchanges_.push_back(ranks_.all_to_all(Channel::kDense, received_.view({-1}), from_, sent_, to_));
}

std::vector<torch::Tensor> GradientExchange::finish_sum() {
  std::vector<torch::Tensor> gradients = std::exchange(gradients_, {});
  if (ranks_.size() == 1) return gradients;
  wait();
  for (size_t i = 0; i < gradients.size(); ++i) {
    if (places_[i].stays() || !gradients[i].defined()) continue;
    if (owns(i)) {
      const Place place{places_[i].begin - begins_[own()]};
      std::vector<torch::Tensor> parts;
      for (const torch::Tensor& of_rank : received_.unbind()) parts.push_back(place.of(of_rank, parameters_[i]));
      parts.insert(parts.begin() + ranks_.rank(), std::move(gradients[i]));
      gradients[i] = pairwise_sum(std::move(parts));
    } else {
      gradients[i].reset();
    }
  }
  return gradients;
}

void GradientExchange::start_return() {
  if (ranks_.size() == 1) return;
  const torch::NoGradGuard no_grad;
  torch::Tensor ours = values_.narrow(0, begins_[own()], sizes_[own()]);
  if (ranks_.size() > 2) ours = received_.copy_(ours).view({-1});  // once for each other rank
  exchanges_.push_back(ranks_.all_to_all(Channel::kDense, values_.narrow(0, 0, begins_[own()]), to_, ours, from_));
}

void GradientExchange::wait() {
  for (Exchange& exchange : exchanges_) exchange.wait();
  exchanges_.clear();
}

void GradientExchange::send_parameters() {
  for (size_t owner = 0; owner < sizes_.size(); ++owner)
    if (sizes_[owner] > 0)
      exchanges_.push_back(ranks_.broadcast(Channel::kDense, values_.narrow(0, begins_[owner], sizes_[owner]), 0));
  wait();
}

}  // namespace engram
