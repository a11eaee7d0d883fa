#include "engram/train/optimizer.h"

#include <cmath>

#include "engram/model/io/spread_tensor.h"
#include "engram/model/ops/parallel.h"

namespace engram {
namespace {

constexpr int64_t kGroupFloats = 1 << 20;  // 4 MiB
constexpr int64_t kMostGroups = 4;         // of matrices, about: each is one more exchange

// What an update costs, about: bytes that move, and for a matrix the products of the Newton-Schulz iteration.
int64_t update_cost(const ParameterInfo& info) {
  const bool matrix = info.kind == ParameterKind::kMatrix;
  return info.tensor.numel() * (4 + (matrix ? std::min(info.tensor.size(-1), info.tensor.size(-2)) : 0));
}

// AdamW goes element by element, in runs of 16 at most, and Muon expert by expert.
int64_t unit_of(const ParameterInfo& info) {
  if (info.kind == ParameterKind::kVector) return info.tensor.dim() == 2 ? 16 : 0;
  return info.tensor.dim() == 3 ? 1 : 0;
}

// What returns together: all that AdamW has, which is updated first, and then the matrices, some at a time, so that
// they return while the next ones are updated.
std::vector<ExchangedParameter> exchanged(const std::vector<ParameterInfo>& infos, int ranks) {
  int64_t all = 0, filled = 0;
  for (const ParameterInfo& info : infos) all += info.tensor.numel();
  const int64_t most = ranks == 1 ? all : std::max(kGroupFloats, all / kMostGroups);
  std::vector<ExchangedParameter> parameters;
  for (const ParameterInfo& info : infos) {
    const bool matrix = info.kind == ParameterKind::kMatrix;
    parameters.push_back({info.tensor, update_cost(info), unit_of(info),
                          matrix ? static_cast<size_t>(1 + filled / most) : 0, !info.begins.empty()});
    filled += matrix ? info.tensor.numel() : 0;
  }
  return parameters;
}

double factor(const OptimizerRecipe& recipe, const ParameterInfo& info) {
  return recipe.lr_factor[static_cast<size_t>(info.role)];
}

std::vector<Muon> make_muons(const std::vector<ParameterInfo>& infos, const std::vector<ExchangedParameter>& exchanged,
                             const OptimizerRecipe& recipe, const std::vector<torch::Tensor>& own) {
  std::vector<std::vector<MuonParameter>> groups;
  MuonOptions options;
  for (size_t i = 0; i < infos.size(); ++i) {
    if (infos[i].kind != ParameterKind::kMatrix) continue;
    groups.resize(exchanged[i].group);
    groups.back().push_back({infos[i].name, own[i].defined() ? own[i] : infos[i].tensor, infos[i].row_splits,
                             own[i].defined(), factor(recipe, infos[i])});
    if (infos[i].tensor.is_cuda()) options.ns_dtype = torch::kBFloat16;
  }
  options.weight_decay = recipe.weight_decay;
  options.momentum = recipe.muon_momentum;
  options.ns_steps = recipe.muon_ns_steps;
  std::vector<Muon> muons;
  for (auto& group : groups) muons.emplace_back(std::move(group), options);
  return muons;
}

AdamW make_adamw(const std::vector<ParameterInfo>& infos, const OptimizerRecipe& recipe,
                 const std::vector<torch::Tensor>& own) {
  std::vector<AdamWParameter> others;
  for (size_t i = 0; i < infos.size(); ++i) {
    if (infos[i].kind != ParameterKind::kVector) continue;
    others.push_back({infos[i].name, own[i].defined() ? own[i] : infos[i].tensor, infos[i].decay, own[i].defined(),
                      factor(recipe, infos[i])});
  }
  AdamWOptions options;
  options.beta1 = recipe.adamw_beta1;
  options.beta2 = recipe.adamw_beta2;
  options.eps = recipe.adamw_eps;
  options.weight_decay = recipe.weight_decay;
  return AdamW(std::move(others), options);
}

}  // namespace

Optimizer::Optimizer(Communicator& ranks, const std::vector<ParameterInfo>& infos, const OptimizerRecipe& recipe)
    : Optimizer(ranks, infos, recipe, exchanged(infos, ranks.size())) {}

Optimizer::Optimizer(Communicator& ranks, const std::vector<ParameterInfo>& infos, const OptimizerRecipe& recipe,
                     const std::vector<ExchangedParameter>& exchanged)
    : ranks_(ranks),
      recipe_(recipe),
      exchange_(ranks, exchanged),
      own_(exchange_.own()),
      muons_(make_muons(infos, exchanged, recipe, own_)),
      adamw_(make_adamw(infos, recipe, own_)) {
  for (size_t i = 0; i < infos.size(); ++i) {
    auto& rows = infos[i].kind == ParameterKind::kMatrix ? matrix_rows_ : vector_rows_;
    rows.push_back(infos[i].begins.empty() ? exchange_.begins(i) : infos[i].begins);
  }
}

void Optimizer::step(const std::vector<torch::Tensor>& gradients, double multiplier) {
  TORCH_CHECK(gradients.size() == own_.size(), "gradients: got ", gradients.size(), ", wanted ", own_.size());
  for (size_t i = 0; i < gradients.size(); ++i)
    if (own_[i].defined()) own_[i].mutable_grad() = gradients[i];
  adamw_.step(recipe_.adamw_lr * multiplier);
  exchange_.start_return(0);
  for (size_t group = 0; group < muons_.size(); ++group) {
    muons_[group].step(recipe_.muon_lr * multiplier);
    exchange_.start_return(group + 1);
  }
  for (torch::Tensor& own : own_)
    if (own.defined()) own.mutable_grad().reset();
}

std::vector<StreamedTensor> Optimizer::stored_state() {
  std::vector<StreamedTensor> state;
  size_t next = 0;
  for (const Muon& muon : muons_)
    for (const auto& [name, tensor] : muon.state())
      state.push_back(spread_tensor(ranks_, Channel::kDense, name, tensor, matrix_rows_[next++]));
  next = 0;
  for (const auto& [name, tensor] : adamw_.state()) {
    if (tensor.dim() == 0) {  // the counter of steps, which every rank has
      state.push_back(whole_tensor(name, tensor));
      state.back().write = [this, tensor = tensor](int64_t, int64_t, const torch::Tensor& value) {
        if (ranks_.rank() == 0) torch::Tensor(tensor).copy_(value.squeeze(0));
        ranks_.broadcast(Channel::kDense, tensor, 0).wait();
      };
    } else {
      const std::vector<int64_t>& begins = vector_rows_[next++ / 2];  // two moments each
      state.push_back(spread_tensor(ranks_, Channel::kDense, name, tensor, begins));
    }
  }
  return state;
}

namespace {

std::vector<torch::Tensor> defined_ones(const std::vector<torch::Tensor>& tensors) {
  std::vector<torch::Tensor> defined;
  for (const torch::Tensor& tensor : tensors)
    if (tensor.defined()) defined.push_back(tensor);
  return defined;
}

// Where the values are at hand each is squared by itself, so that any division among ranks gives the same bits.
ExactSum exact_squares(const torch::Tensor& gradient) {
  const torch::Tensor values = gradient.contiguous();
  constexpr int64_t kPiece = 1 << 16;
  std::vector<ExactSum> pieces(static_cast<size_t>((values.numel() + kPiece - 1) / kPiece));
  parallel_tasks(std::ssize(pieces), [&](int64_t i) {
    pieces[static_cast<size_t>(i)].add_squares(values.const_data_ptr<float>() + i * kPiece,
                                               std::min(kPiece, values.numel() - i * kPiece));
  });
  ExactSum total;
  for (const ExactSum& piece : pieces) total.add(piece);
  return total;
}

}  // namespace

ExactSum gradient_squares(const std::vector<torch::Tensor>& gradients) {
  const torch::NoGradGuard no_grad;
  ExactSum total;
  std::vector<torch::Tensor> others;
  for (const torch::Tensor& gradient : defined_ones(gradients)) {
    if (gradient.is_cpu() && gradient.scalar_type() == torch::kFloat) {
      total.add(exact_squares(gradient));
    } else {
      others.push_back(gradient);
    }
  }
  if (others.empty()) return total;
  const torch::Tensor norms = at::stack(at::_foreach_norm(others, 2)).to(torch::kCPU, torch::kFloat64);
  for (int64_t i = 0; i < norms.numel(); ++i) total.add(std::pow(norms.const_data_ptr<double>()[i], 2));
  return total;
}

double clip_scale(double norm, double max_norm) {
  return max_norm > 0 && norm > max_norm ? max_norm / (norm + 1e-6) : 1;
}

void scale_gradients(const std::vector<torch::Tensor>& gradients, double scale) {
  const torch::NoGradGuard no_grad;
  if (const std::vector<torch::Tensor> defined = defined_ones(gradients); !defined.empty() && scale != 1)
    at::_foreach_mul_(defined, scale);
}

}  // namespace engram
