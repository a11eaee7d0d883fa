#include "engram/train/optimizer.h"

#include <cmath>

#include "engram/model/io/spread_tensor.h"
#include "engram/model/ops/parallel.h"

namespace engram {
namespace {

// What an update costs, about: bytes that move, and for a matrix the products of the Newton-Schulz iteration.
std::vector<int64_t> update_costs(const std::vector<ParameterInfo>& infos) {
  std::vector<int64_t> costs;
  for (const ParameterInfo& info : infos) {
    if (!info.begins.empty()) {
      costs.push_back(GradientExchange::kStays);
      continue;
    }
    const bool matrix = info.kind == ParameterKind::kMatrix;
    costs.push_back(info.tensor.numel() * (4 + (matrix ? std::min(info.tensor.size(-1), info.tensor.size(-2)) : 0)));
  }
  return costs;
}

std::vector<torch::Tensor> tensors(const std::vector<ParameterInfo>& infos) {
  std::vector<torch::Tensor> tensors;
  for (const ParameterInfo& info : infos) tensors.push_back(info.tensor);
  return tensors;
}

double factor(const OptimizerRecipe& recipe, const ParameterInfo& info) {
  return recipe.lr_factor[static_cast<size_t>(info.role)];
}

Muon make_muon(const std::vector<ParameterInfo>& infos, const OptimizerRecipe& recipe,
               const GradientExchange& exchange) {
  std::vector<MuonParameter> matrices;
  MuonOptions options;
  for (size_t i = 0; i < infos.size(); ++i) {
    if (infos[i].kind != ParameterKind::kMatrix) continue;
    matrices.push_back(
        {infos[i].name, infos[i].tensor, infos[i].row_splits, exchange.owns(i), factor(recipe, infos[i])});
    if (infos[i].tensor.is_cuda()) options.ns_dtype = torch::kBFloat16;
  }
  options.weight_decay = recipe.weight_decay;
  options.momentum = recipe.muon_momentum;
  options.ns_steps = recipe.muon_ns_steps;
  return Muon(std::move(matrices), options);
}

AdamW make_adamw(const std::vector<ParameterInfo>& infos, const OptimizerRecipe& recipe,
                 const GradientExchange& exchange) {
  std::vector<AdamWParameter> others;
  for (size_t i = 0; i < infos.size(); ++i)
    if (infos[i].kind == ParameterKind::kVector)
      others.push_back({infos[i].name, infos[i].tensor, infos[i].decay, exchange.owns(i), factor(recipe, infos[i])});
  AdamWOptions options;
  options.beta1 = recipe.adamw_beta1;
  options.beta2 = recipe.adamw_beta2;
  options.eps = recipe.adamw_eps;
  options.weight_decay = recipe.weight_decay;
  return AdamW(std::move(others), options);
}

}  // namespace

Optimizer::Optimizer(Communicator& ranks, const std::vector<ParameterInfo>& infos, const OptimizerRecipe& recipe)
    : ranks_(ranks),
      recipe_(recipe),
      parameters_(tensors(infos)),
      exchange_(ranks, parameters_, update_costs(infos)),
      muon_(make_muon(infos, recipe, exchange_)),
      adamw_(make_adamw(infos, recipe, exchange_)) {
  for (size_t i = 0; i < infos.size(); ++i) {
    auto& rows = infos[i].kind == ParameterKind::kMatrix ? matrix_rows_ : vector_rows_;
    rows.push_back(infos[i].begins.empty() ? owned_rows(ranks_.size(), exchange_.owner(i), infos[i].tensor.size(0))
                                           : infos[i].begins);
  }
}

void Optimizer::step(const std::vector<torch::Tensor>& gradients, double multiplier) {
  TORCH_CHECK(gradients.size() == parameters_.size(), "gradients: got ", gradients.size(), ", wanted ",
              parameters_.size());
  for (size_t i = 0; i < gradients.size(); ++i) parameters_[i].mutable_grad() = gradients[i];
  muon_.step(recipe_.muon_lr * multiplier);
  adamw_.step(recipe_.adamw_lr * multiplier);
  for (torch::Tensor& parameter : parameters_) parameter.mutable_grad().reset();
  exchange_.start_return();
}

std::vector<StreamedTensor> Optimizer::stored_state() {
  std::vector<StreamedTensor> state;
  size_t next = 0;
  for (const auto& [name, tensor] : muon_.state())
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
