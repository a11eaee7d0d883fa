#include "engram/train/gradient_exchange.h"

#include <numeric>

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

std::vector<torch::Tensor> GradientExchange::sum(std::vector<torch::Tensor> gradients) {
  if (ranks_.size() == 1) return gradients;
  const torch::NoGradGuard no_grad;
  std::vector<torch::Tensor> sending = sent_.split_with_sizes(sizes_);
  for (size_t i = 0; i < gradients.size(); ++i) {
    torch::Tensor place = places_[i].of(sending[static_cast<size_t>(owners_[i])], parameters_[i]);
    if (gradients[i].defined())
      place.copy_(gradients[i]);
    else
      place.zero_();
  }
  const int64_t mine = sizes_[static_cast<size_t>(ranks_.rank())];
  ranks_.all_to_all(Channel::kDense, received_, std::vector<int64_t>(sizes_.size(), mine), sent_, sizes_).wait();
  const torch::Tensor total = pairwise_sum(received_.split(std::max<int64_t>(mine, 1)));
  for (size_t i = 0; i < gradients.size(); ++i)
    gradients[i] = owns(i) && gradients[i].defined() ? places_[i].of(total, parameters_[i]) : torch::Tensor();
  return gradients;
}

void GradientExchange::return_parameters() {
  std::vector<int> owners(sizes_.size());
  std::iota(owners.begin(), owners.end(), 0);
  broadcast(owners);
}

void GradientExchange::send_parameters() { broadcast(std::vector<int>(sizes_.size(), 0)); }

void GradientExchange::broadcast(std::span<const int> roots) {
  std::vector<Exchange> exchanges;
  for (size_t part = 0; part < roots.size(); ++part)
    if (sizes_[part] > 0) exchanges.push_back(ranks_.broadcast(Channel::kDense, values_[part], roots[part]));
  for (Exchange& exchange : exchanges) exchange.wait();
}

}  // namespace engram
