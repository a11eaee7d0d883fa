#include "engram/train/gradient_exchange.h"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <functional>
#include <numeric>
#include <utility>

namespace engram {
namespace {

// Parameters begin at multiples of 64 bytes, as libtorch's allocator has it: matrix products may choose their kernel by
// the address.
constexpr int64_t kAlignment = 16;
int64_t room(const torch::Tensor& tensor) { return (tensor.numel() + kAlignment - 1) / kAlignment * kAlignment; }

constexpr int64_t kBucketFloats = 1 << 20;  // 4 MiB: latency counts for little, and a step has several buckets

torch::Tensor piece(const torch::Tensor& buffer, int64_t begin, const torch::Tensor& like) {
  return buffer.narrow(0, begin, like.numel()).view(like.sizes());
}

int64_t sum_of(const std::vector<int64_t>& numbers) {
  return std::accumulate(numbers.begin(), numbers.end(), int64_t{0});
}

// Of messages that follow one another, the beginning of each.
std::vector<int64_t> begins_of(const std::vector<int64_t>& sizes) {
  std::vector<int64_t> begins(sizes.size());
  std::exclusive_scan(sizes.begin(), sizes.end(), begins.begin(), int64_t{0});
  return begins;
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

GradientExchange::GradientExchange(Communicator& ranks, std::vector<ExchangedParameter> parameters)
    : ranks_(ranks), parameters_(std::move(parameters)), parts_(parameters_.size()), bucket_of_(parameters_.size()) {
  const torch::NoGradGuard no_grad;
  divide();
  make_buckets();
  if (ranks_.size() == 1) return;
  make_groups();
  watch_gradients();
}

void GradientExchange::divide() {
  std::vector<Weight> weights;
  for (const ExchangedParameter& parameter : parameters_)
    weights.push_back(parameter.stays ? Weight()
                                      : Weight{parameter.tensor.numel(), parameter.cost, parameter.unit > 0});
  const std::vector<int> owners = weight_owners(weights, ranks_.size());
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const auto& [tensor, cost, unit, group, stays] = parameters_[i];
    if (stays) continue;
    if (owners[i] != kDivided) {
      parts_[i].push_back({i, owners[i], {0, tensor.size(0)}});
      continue;
    }
    for (int rank = 0; rank < ranks_.size(); ++rank) {
      const Range units = even_range((tensor.size(0) + unit - 1) / unit, ranks_.size(), rank);
      parts_[i].push_back({i, rank, {units.begin * unit, std::min(units.end * unit, tensor.size(0))}});
    }
  }
}

std::vector<int64_t> GradientExchange::begins(size_t parameter) const {
  std::vector<int64_t> begins(static_cast<size_t>(ranks_.size()) + 1);
  for (const Part& part : parts_[parameter])
    for (size_t rank = static_cast<size_t>(part.owner) + 1; rank < begins.size(); ++rank) begins[rank] = part.rows.end;
  return begins;
}

std::vector<torch::Tensor> GradientExchange::own() const {
  std::vector<torch::Tensor> own(parameters_.size());
  for (size_t i = 0; i < own.size(); ++i) {
    const torch::Tensor& tensor = parameters_[i].tensor;
    if (parameters_[i].stays) own[i] = tensor;
    for (const Part& part : parts_[i])
      if (owned(part) && part.rows.size() > 0)
        own[i] = part.rows.size() == tensor.size(0) ? tensor : part.of(tensor.detach());
  }
  return own;
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
    buckets_.back().parameters.push_back(i);
    bucket_of_[i] = buckets_.size() - 1;
    for (Part& part : parts_[i]) {
      int64_t& size = buckets_.back().to[static_cast<size_t>(part.owner)];
      part.in_sum = size;
      size += room(part.of(parameters_[i].tensor));
      filled += ranks > 1 ? room(part.of(parameters_[i].tensor)) : 0;  // alone, nothing leaves
    }
  }
  for (Bucket& bucket : buckets_) {
    const int64_t ours = std::exchange(bucket.to[own_rank()], 0);
    bucket.from.assign(ranks, ours);
    bucket.from[own_rank()] = 0;
    const std::vector<int64_t> begins = begins_of(bucket.to);
    for (const size_t i : bucket.parameters)
      for (Part& part : parts_[i])
        if (!owned(part)) part.in_sum += begins[static_cast<size_t>(part.owner)];
    bucket.sent = torch::zeros({sum_of(bucket.to)});
    bucket.received = torch::empty({ranks_.size() - 1, ours});
    bucket.missing = bucket.parameters.size();
  }
}

void GradientExchange::make_groups() {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const torch::Tensor& tensor = parameters_[i].tensor;
    TORCH_CHECK(tensor.is_cpu() && tensor.scalar_type() == torch::kFloat,
                "several ranks train fp32 parameters on the CPU, got ", tensor.scalar_type(), " on ", tensor.device());
    if (parameters_[i].stays) continue;
    groups_.resize(std::max(groups_.size(), parameters_[i].group + 1));
    Group& group = groups_[parameters_[i].group];
    group.parameters.push_back(i);
    group.packed |= parts_[i].size() > 1;
    group.to.resize(static_cast<size_t>(ranks_.size()));
    for (Part& part : parts_[i]) {
      int64_t& size = group.to[static_cast<size_t>(part.owner)];
      part.in_return = size;
      size += room(part.of(tensor));
    }
  }
  for (Group& group : groups_) {
    if (group.parameters.empty()) continue;
    const int64_t ours = std::exchange(group.to[own_rank()], 0);
    group.from.assign(group.to.size(), ours);
    group.from[own_rank()] = 0;
    const std::vector<int64_t> begins = begins_of(group.to);
    const torch::Tensor values = torch::zeros({sum_of(group.to) + ours});
    group.received = values.narrow(0, 0, sum_of(group.to));
    group.ours = values.narrow(0, sum_of(group.to), ours);
    if (ranks_.size() > 2) group.copies = torch::empty({ranks_.size() - 1, ours});
    for (const size_t i : group.parameters)
      for (Part& part : parts_[i]) {
        if (!owned(part)) part.in_return += begins[static_cast<size_t>(part.owner)];
        if (group.packed) continue;
        const torch::Tensor home =
            piece(owned(part) ? group.ours : group.received, part.in_return, parameters_[i].tensor);
        home.copy_(parameters_[i].tensor);
        parameters_[i].tensor.set_data(home);
      }
  }
}

void GradientExchange::watch_gradients() {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    accumulators_.push_back(torch::autograd::impl::grad_accumulator(parameters_[i].tensor));
    accumulators_.back()->add_post_hook(std::make_unique<AfterGradient>([this, i] { on_gradient(i); }));
  }
}

// A bucket leaves when it is complete and all before it have left: one order on all ranks.
void GradientExchange::on_gradient(size_t parameter) {
  if (!last_) return;
  --buckets_[bucket_of_[parameter]].missing;
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
    term.push_back(std::move(parameters_[i].tensor.mutable_grad()));
    parameters_[i].tensor.mutable_grad().reset();
  }
  bucket.sum.push(std::move(term));
}

void GradientExchange::send(Bucket& bucket) {
  const torch::NoGradGuard no_grad;
  std::vector<torch::Tensor> sums = bucket.sum.finish();
  gradients_.resize(parameters_.size());
  for (size_t k = 0; k < sums.size(); ++k) {
    const size_t i = bucket.parameters[k];
    for (const Part& part : parts_[i]) {
      if (owned(part)) continue;
      torch::Tensor message = piece(bucket.sent, part.in_sum, part.of(parameters_[i].tensor));
      if (sums[k].defined()) {
        message.copy_(part.of(sums[k]));
      } else {
        message.zero_();
      }
    }
    gradients_[i] = std::move(sums[k]);
  }
  bucket.missing = bucket.parameters.size();
  if (ranks_.size() > 1)
    sums_.push_back(
        ranks_.all_to_all(Channel::kDense, bucket.received.view({-1}), bucket.from, bucket.sent, bucket.to));
}

std::vector<torch::Tensor> GradientExchange::finish_sum() {
  left_ = 0;
  std::vector<torch::Tensor> gradients = std::exchange(gradients_, {});
  std::vector<Exchange> sums = std::exchange(sums_, {});
  for (size_t i = 0; i < sums.size(); ++i) {
    sums[i].wait();
    add_received(buckets_[i], gradients);
  }
  return gradients;
}

// This rank's sums become those of all ranks, of the rows owned here.
void GradientExchange::add_received(const Bucket& bucket, std::vector<torch::Tensor>& gradients) {
  for (const size_t i : bucket.parameters) {
    if (parameters_[i].stays || !gradients[i].defined()) continue;
    const torch::Tensor whole = std::exchange(gradients[i], {});
    for (const Part& part : parts_[i]) {
      if (!owned(part) || part.rows.size() == 0) continue;
      std::vector<torch::Tensor> terms;
      for (const torch::Tensor& of_rank : bucket.received.unbind())
        terms.push_back(piece(of_rank, part.in_sum, part.of(parameters_[i].tensor)));
      terms.insert(terms.begin() + ranks_.rank(), part.of(whole));
      gradients[i] = pairwise_sum(std::move(terms));
    }
  }
}

void GradientExchange::start_return(size_t number) {
  if (number >= groups_.size() || groups_[number].parameters.empty()) return;
  const torch::NoGradGuard no_grad;
  Group& group = groups_[number];
  for (const size_t i : group.parameters)
    for (const Part& part : parts_[i])
      if (group.packed && owned(part)) {
        const torch::Tensor rows = part.of(parameters_[i].tensor);
        piece(group.ours, part.in_return, rows).copy_(rows);
      }
  const torch::Tensor ours = group.copies.defined() ? group.copies.copy_(group.ours).view({-1}) : group.ours;
  returns_.push_back(ranks_.all_to_all(Channel::kDense, group.received, group.to, ours, group.from));
}

void GradientExchange::finish_return() {
  const torch::NoGradGuard no_grad;
  for (Exchange& exchange : returns_) exchange.wait();
  returns_.clear();
  for (const Group& group : groups_)
    for (const size_t i : group.parameters)
      for (const Part& part : parts_[i])
        if (group.packed && !owned(part)) {
          torch::Tensor rows = part.of(parameters_[i].tensor);
          rows.copy_(piece(group.received, part.in_return, rows));
        }
}

void GradientExchange::send_parameters() {
  for (const ExchangedParameter& parameter : parameters_)
    if (!parameter.stays && ranks_.size() > 1) ranks_.broadcast(Channel::kDense, parameter.tensor.detach(), 0).wait();
}

}  // namespace engram
