#include "engram/model/layers/expert_exchange.h"

#include <numeric>
#include <utility>

#include "engram/model/ops/moe_parts.h"
#include "engram/model/ops/support.h"

namespace engram {

using internal::floats;
using internal::mutable_floats;
using internal::to_fp32;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

std::vector<int64_t> ExpertRanks::first_experts(int64_t experts) const {
  std::vector<int64_t> first = {0};
  for (int rank = 0; rank < ranks->size(); ++rank) first.push_back(even_range(experts, ranks->size(), rank).end);
  return first;
}

// Who sent what in one forward pass.
struct ExpertExchange::Pass : torch::CustomClassHolder {
  // Rows of one rank that this one works on.
  struct Source {
    int64_t begin = 0, tokens = 0;  // in all arrived rows; of the rank's forward pass
    MoeShape shape;                 // a token for each row
    MoeGroups groups;               // of own experts
  };
  ExpertExchange* exchange = nullptr;
  MoeShape shape;                       // of this rank's tokens, over all experts
  MoeGroups groups;                     // likewise
  std::vector<int64_t> sent, received;  // rows to and from each rank
  std::vector<Source> sources;          // of each rank
  torch::ScalarType x_type, weight_type;

  int64_t arrived() const { return sources.back().begin + sources.back().shape.tokens; }
  // [A] the tokens of this rank's rows in the order in which they are sent, and back: rows in order of assignments.
  torch::Tensor places() const { return torch::tensor(groups.assignments, torch::kLong); }
  MoeInput input(const Source& source, const torch::Tensor& x, const torch::Tensor& gate_up, const torch::Tensor& down,
                 const torch::Tensor& weight) const {
    return {floats(x) + source.begin * shape.dim, floats(gate_up), floats(down),
            weight.defined() ? floats(weight) + source.begin : nullptr};
  }
};

namespace {

torch::Tensor by_assignment(const torch::Tensor& rows, const torch::Tensor& places) {
  return torch::empty_like(rows).index_copy_(0, places, rows);
}

}  // namespace

ExpertExchange::ExpertExchange(const ExpertRanks& ranks, int64_t experts)
    : ranks_(ranks),
      experts_(experts),
      first_(ranks.first_experts(experts)),
      sums_(static_cast<size_t>(ranks.ranks->size())) {}

Exchange ExpertExchange::send(const torch::Tensor& to, const std::vector<int64_t>& to_counts, const torch::Tensor& from,
                              const std::vector<int64_t>& from_counts) const {
  return ranks_.ranks->all_to_all(Channel::kExpert, to, to_counts, from.contiguous(), from_counts);
}

// Each owner hears how many tokens this rank has and how many of them go to each of its experts.
void ExpertExchange::exchange_counts(Pass& pass, int64_t tokens) const {
  const auto ranks = static_cast<size_t>(ranks_.ranks->size()), self = static_cast<size_t>(ranks_.ranks->rank());
  const auto own = static_cast<size_t>(first_[self + 1] - first_[self]);
  std::vector<int64_t> counts, splits;
  for (size_t rank = 0; rank < ranks; ++rank) {
    counts.push_back(tokens);
    const auto begin = static_cast<size_t>(first_[rank]), end = static_cast<size_t>(first_[rank + 1]);
    for (size_t e = begin; e < end; ++e) counts.push_back(pass.groups.offsets[e + 1] - pass.groups.offsets[e]);
    splits.push_back(static_cast<int64_t>(end - begin) + 1);
    pass.sent.push_back(pass.groups.offsets[end] - pass.groups.offsets[begin]);
  }
  const torch::Tensor theirs = torch::empty({static_cast<int64_t>(ranks * (own + 1))}, torch::kLong);
  send(theirs, std::vector<int64_t>(ranks, static_cast<int64_t>(own) + 1), torch::tensor(counts, torch::kLong), splits)
      .wait();
  const int64_t* next = theirs.const_data_ptr<int64_t>();
  int64_t begin = 0;
  for (size_t rank = 0; rank < ranks; ++rank) {
    Pass::Source source;
    source.begin = begin;
    source.tokens = *next++;
    source.groups.offsets = {0};
    for (size_t e = 0; e < own; ++e, ++next) {
      TORCH_CHECK(source.tokens <= ranks_.most_tokens && *next >= 0 && *next <= source.tokens, "rank ", rank, " sends ",
                  *next, " of ", source.tokens, " tokens to expert ", first_[self] + static_cast<int64_t>(e),
                  ", wanted at most ", ranks_.most_tokens, " tokens, each once");
      source.groups.offsets.push_back(source.groups.offsets.back() + *next);
    }
    const int64_t rows = source.groups.offsets.back();
    TORCH_CHECK(rows <= source.tokens * pass.shape.choices, "rank ", rank, " sends ", rows, " rows of ", source.tokens,
                " tokens, wanted at most ", pass.shape.choices, " of each");
    source.groups.assignments.resize(static_cast<size_t>(rows));
    std::iota(source.groups.assignments.begin(), source.groups.assignments.end(), int64_t{0});
    source.shape = {rows, pass.shape.dim, pass.shape.width, static_cast<int64_t>(own), 1};
    pass.received.push_back(rows);
    pass.sources.push_back(std::move(source));
    begin += rows;
  }
}

void ExpertExchange::add_gradient(size_t rank, torch::Tensor gate_up, torch::Tensor down) {
  sums_[rank].push({std::move(gate_up), std::move(down)});
  if (backwards_ + 1 == ranks_.micro_batches) total_.push(sums_[rank].finish());
}

// The step's gradients after its last backward pass, undefined ones before.
std::vector<torch::Tensor> ExpertExchange::end_backward() {
  if (++backwards_ < ranks_.micro_batches) return {torch::Tensor(), torch::Tensor()};
  backwards_ = 0;
  return total_.finish();
}

struct ExpertExchange::Function : torch::autograd::Function<ExpertExchange::Function> {
  static torch::Tensor forward(AutogradContext* context, ExpertExchange* exchange, const torch::Tensor& x,
                               const torch::Tensor& gate_up, const torch::Tensor& down, const torch::Tensor& index_any,
                               const torch::Tensor& weight_any) {
    const torch::Tensor index = index_any.contiguous(), weight = to_fp32(weight_any);
    const auto pass = c10::make_intrusive<Pass>();
    pass->exchange = exchange;
    pass->shape = {x.size(0), x.size(1), down.size(2), exchange->experts_, index.size(1)};
    pass->groups = internal::group_choices(index, pass->shape);
    pass->x_type = x.scalar_type();
    pass->weight_type = weight_any.scalar_type();
    exchange->exchange_counts(*pass, x.size(0));

    const torch::Tensor places = pass->places(), tokens = places.floor_divide(pass->shape.choices);
    torch::Tensor arrived = torch::empty({pass->arrived(), pass->shape.dim}, x.options());
    exchange->send(arrived, pass->received, x.index_select(0, tokens), pass->sent).wait();
    arrived = to_fp32(arrived);
    const torch::Tensor inner = torch::empty({arrived.size(0), 2 * pass->shape.width}, arrived.options());
    const torch::Tensor rows = torch::empty_like(arrived);
    for (const Pass::Source& source : pass->sources) {
      const MoeInput input = pass->input(source, arrived, gate_up, down, {});
      float* out = mutable_floats(rows) + source.begin * pass->shape.dim;
      if (internal::are_few(source.tokens)) {
        internal::few_expert_rows(source.shape, source.groups, input, out);
      } else {
        internal::expert_rows(source.shape, source.groups, input, mutable_floats(inner) + source.begin * inner.size(1),
                              out);
      }
    }
    const torch::Tensor back = torch::empty({places.size(0), pass->shape.dim}, arrived.options());
    exchange->send(back, pass->sent, rows, pass->received).wait();
    if (context != nullptr) {
      context->save_for_backward({arrived, gate_up, down, inner, weight, places});
      context->saved_data["pass"] = c10::IValue::make_capsule(pass);
    }
    return internal::combine_rows(pass->shape, by_assignment(back, places), weight).to(pass->x_type);
  }

  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    const auto saved = context->get_saved_variables();
    const torch::Tensor &arrived = saved[0], &gate_up = saved[1], &down = saved[2], &inner = saved[3];
    const torch::Tensor &weight = saved[4], &places = saved[5];
    const auto capsule = context->saved_data["pass"].toCapsule();
    const auto& pass = static_cast<const Pass&>(*capsule);
    ExpertExchange& exchange = *pass.exchange;
    const torch::Tensor sent = gradients[0].index_select(0, places.floor_divide(pass.shape.choices));
    torch::Tensor dy = torch::empty(arrived.sizes(), sent.options());
    const torch::Tensor row_weight = torch::empty({arrived.size(0)}), dweight = torch::empty_like(row_weight);
    Exchange first = exchange.send(dy, pass.received, sent, pass.sent);
    Exchange second = exchange.send(row_weight, pass.received, weight.view({-1}).index_select(0, places), pass.sent);
    first.wait();
    second.wait();
    dy = to_fp32(dy);
    const torch::Tensor dx = torch::empty_like(arrived);
    for (size_t rank = 0; rank < pass.sources.size(); ++rank) {
      const Pass::Source& source = pass.sources[rank];
      torch::Tensor dgate_up = torch::empty_like(gate_up), ddown = torch::empty_like(down);
      const int64_t row = source.begin * pass.shape.dim;
      internal::expert_gradients(source.shape, source.groups, pass.input(source, arrived, gate_up, down, row_weight),
                                 floats(inner) + source.begin * inner.size(1), floats(dy) + row,
                                 {mutable_floats(dgate_up), mutable_floats(ddown), mutable_floats(dx) + row,
                                  mutable_floats(dweight) + source.begin});
      exchange.add_gradient(rank, std::move(dgate_up), std::move(ddown));
    }
    const torch::Tensor dx_back = torch::empty({places.size(0), pass.shape.dim}),
                        dweight_back = torch::empty(places.size(0));
    first = exchange.send(dx_back, pass.sent, dx, pass.received);
    second = exchange.send(dweight_back, pass.sent, dweight, pass.received);
    first.wait();
    second.wait();
    std::vector<torch::Tensor> weights = exchange.end_backward();
    return {
        torch::Tensor(),       internal::combine_rows(pass.shape, by_assignment(dx_back, places), {}).to(pass.x_type),
        std::move(weights[0]), std::move(weights[1]),
        torch::Tensor(),       by_assignment(dweight_back, places).view(weight.sizes()).to(pass.weight_type)};
  }
};

torch::Tensor ExpertExchange::run(const torch::Tensor& x, const torch::Tensor& gate_up, const torch::Tensor& down,
                                  const torch::Tensor& topk_index, const torch::Tensor& topk_weight) {
  TORCH_CHECK(internal::has_kernel(x) && internal::is_plain(gate_up) && internal::is_plain(down),
              "experts of several ranks: got ", x.scalar_type(), " rows on ", x.device(), " and ",
              gate_up.scalar_type(), " weights, wanted fp32 on the CPU");
  if (c10::InferenceMode::is_enabled())
    return Function::forward(nullptr, this, x, gate_up, down, topk_index, topk_weight);
  return Function::apply(this, x, gate_up, down, topk_index, topk_weight);
}

}  // namespace engram
