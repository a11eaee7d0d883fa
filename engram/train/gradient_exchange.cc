#include "engram/train/gradient_exchange.h"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <functional>
#include <numeric>
#include <utility>

#include "engram/dist/partition.h"

namespace engram {
namespace {

// Parameters begin at multiples of 64 bytes, as libtorch's allocator has it: matrix products may choose their kernel by
// the address.
constexpr int64_t kAlignment = 16;
int64_t room(const torch::Tensor& parameter) { return (parameter.numel() + kAlignment - 1) / kAlignment * kAlignment; }

constexpr int64_t kBucketFloats = 1 << 20;  // 4 MiB: latency counts for little, and a step has several buckets

torch::Tensor part(const torch::Tensor& buffer, int64_t begin, const torch::Tensor& like) {
  return buffer.narrow(0, begin, like.numel()).view(like.sizes());
}

class AfterGradient : public torch::autograd::FunctionPostHook {
 public:
  explicit AfterGradient(std::function<void()> run) : run_(std::move(run)) {}
  torch::autograd::variable_list operator()(const torch::autograd::variable_list& outputs,
                                            const torch::autograd::variable_list&) override {
    run_();
    return outputs;
  }

 private:
  std::function<void()> run_;
};

}  // namespace

GradientExchange::GradientExchange(Communicator& ranks, std::vector<torch::Tensor> parameters,
                                   std::span<const int64_t> costs)
    : ranks_(ranks), parameters_(std::move(parameters)), owners_(balance(costs, ranks.size())) {
  TORCH_CHECK(costs.size() == parameters_.size(), "costs: got ", costs.size(), ", wanted ", parameters_.size());
  const torch::NoGradGuard no_grad;
  places_.resize(parameters_.size());
  for (size_t i = 0; i < costs.size(); ++i) {
    if (costs[i] == kStays) {
      owners_[i] = ranks_.rank();
    } else {
      places_[i].value = 0;
    }
  }
  make_buckets();
  if (ranks_.size() == 1) return;
  lay_out_values();
  watch_gradients();
}

void GradientExchange::make_buckets() {
  const auto ranks = static_cast<size_t>(ranks_.size());
  int64_t filled = kBucketFloats;
  for (size_t i = parameters_.size(); i-- > 0;) {
    if (filled >= kBucketFloats) {
      buckets_.emplace_back();
      buckets_.back().to.resize(ranks);
      filled = 0;
    }
    Bucket& bucket = buckets_.back();
    bucket.parameters.push_back(i);
    places_[i].bucket = buckets_.size() - 1;
    if (places_[i].stays()) continue;
    int64_t& size = bucket.to[static_cast<size_t>(owners_[i])];
    places_[i].message = size;
    size += room(parameters_[i]);
    filled += ranks > 1 ? room(parameters_[i]) : 0;  // alone, nothing leaves
  }
  for (Bucket& bucket : buckets_) {
    const int64_t ours = std::exchange(bucket.to[own()], 0);
    bucket.from.assign(ranks, ours);
    bucket.from[own()] = 0;
    std::vector<int64_t> begins(ranks);
    std::exclusive_scan(bucket.to.begin(), bucket.to.end(), begins.begin(), int64_t{0});
    for (const size_t i : bucket.parameters)
      if (!owns(i)) places_[i].message += begins[static_cast<size_t>(owners_[i])];
    bucket.sent = torch::zeros({std::accumulate(bucket.to.begin(), bucket.to.end(), int64_t{0})});
    bucket.received = torch::empty({ranks_.size() - 1, ours});
    bucket.missing = bucket.parameters.size();
  }
}

void GradientExchange::lay_out_values() {
  sizes_.resize(static_cast<size_t>(ranks_.size()));
  for (size_t i = 0; i < parameters_.size(); ++i) {
    TORCH_CHECK(parameters_[i].is_cpu() && parameters_[i].scalar_type() == torch::kFloat,
                "several ranks train fp32 parameters on the CPU, got ", parameters_[i].scalar_type(), " on ",
                parameters_[i].device());
    if (places_[i].stays()) continue;
    int64_t& size = sizes_[static_cast<size_t>(owners_[i])];
    places_[i].value = size;
    size += room(parameters_[i]);
  }
  to_ = sizes_;
  to_[own()] = 0;
  from_.assign(sizes_.size(), sizes_[own()]);
  from_[own()] = 0;
  begins_.resize(sizes_.size());
  std::exclusive_scan(to_.begin(), to_.end(), begins_.begin(), int64_t{0});
  begins_[own()] = std::accumulate(to_.begin(), to_.end(), int64_t{0});
  values_ = torch::zeros({begins_[own()] + sizes_[own()]});
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (places_[i].stays()) continue;
    places_[i].value += begins_[static_cast<size_t>(owners_[i])];
    const torch::Tensor home = part(values_, places_[i].value, parameters_[i]);
    home.copy_(parameters_[i]);
    parameters_[i].set_data(home);
  }
  if (ranks_.size() > 2) copies_ = torch::empty({ranks_.size() - 1, sizes_[own()]});
}

void GradientExchange::watch_gradients() {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    accumulators_.push_back(torch::autograd::impl::grad_accumulator(parameters_[i]));
    accumulators_.back()->add_post_hook(std::make_unique<AfterGradient>([this, i] { on_gradient(i); }));
  }
}

// A bucket leaves when it is complete and all before it have left: one order on all ranks.
void GradientExchange::on_gradient(size_t parameter) {
  if (!last_) return;
  --buckets_[places_[parameter].bucket].missing;
  for (; left_ < buckets_.size() && buckets_[left_].missing == 0; ++left_) {
    add_term(buckets_[left_]);
    send(buckets_[left_]);
  }
}

void GradientExchange::end_backward() {
  for (size_t i = left_; i < buckets_.size(); ++i) {
    add_term(buckets_[i]);
    if (last_) send(buckets_[i]);
  }
  if (last_) left_ = buckets_.size();
}

void GradientExchange::add_term(Bucket& bucket) {
  std::vector<torch::Tensor> term;
  for (const size_t i : bucket.parameters) {
    term.push_back(std::move(parameters_[i].mutable_grad()));
    parameters_[i].mutable_grad().reset();
  }
  bucket.sum.push(std::move(term));
}

void GradientExchange::send(Bucket& bucket) {
  const torch::NoGradGuard no_grad;
  const std::vector<torch::Tensor> sums = bucket.sum.finish();
  gradients_.resize(parameters_.size());
  for (size_t k = 0; k < sums.size(); ++k) {
    const size_t i = bucket.parameters[k];
    gradients_[i] = sums[k];
    if (owns(i)) continue;
    torch::Tensor message = part(bucket.sent, places_[i].message, parameters_[i]);
    if (sums[k].defined()) {
      message.copy_(sums[k]);
    } else {
      message.zero_();
    }
  }
  bucket.missing = bucket.parameters.size();
  if (ranks_.size() > 1)
    exchanges_.push_back(
        ranks_.all_to_all(Channel::kDense, bucket.received.view({-1}), bucket.from, bucket.sent, bucket.to));
}

std::vector<torch::Tensor> GradientExchange::finish_sum() {
  left_ = 0;
  std::vector<torch::Tensor> gradients = std::exchange(gradients_, {});
  if (ranks_.size() == 1) return gradients;
  wait();
  for (size_t i = 0; i < gradients.size(); ++i) {
    const Place& place = places_[i];
    if (place.stays() || !gradients[i].defined()) continue;
    if (!owns(i)) {
      gradients[i].reset();
      continue;
    }
    std::vector<torch::Tensor> parts;
    for (const torch::Tensor& of_rank : buckets_[place.bucket].received.unbind())
      parts.push_back(part(of_rank, place.message, parameters_[i]));
    parts.insert(parts.begin() + ranks_.rank(), std::move(gradients[i]));
    gradients[i] = pairwise_sum(std::move(parts));
  }
  return gradients;
}

void GradientExchange::start_return() {
  if (ranks_.size() == 1) return;
  const torch::NoGradGuard no_grad;
  torch::Tensor ours = values_.narrow(0, begins_[own()], sizes_[own()]);
  if (copies_.defined()) ours = copies_.copy_(ours).view({-1});
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
