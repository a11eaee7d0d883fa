#include "engram/train/optimizer.h"

#include "engram/model/io/parameter_groups.h"

namespace engram {
namespace {

Muon make_muon(const TransformerImpl& model, const OptimizerRecipe& recipe) {
  std::vector<MuonParameter> matrices;
  MuonOptions options;
  for (const ParameterInfo& info : parameter_groups(model)) {
    if (info.kind != ParameterKind::kMatrix) continue;
    matrices.push_back({info.name, info.tensor, info.row_splits});
    if (info.tensor.is_cuda()) options.ns_dtype = torch::kBFloat16;
  }
  options.weight_decay = recipe.weight_decay;
  options.momentum = recipe.muon_momentum;
  options.ns_steps = recipe.muon_ns_steps;
  return Muon(std::move(matrices), options);
}

AdamW make_adamw(const TransformerImpl& model, const OptimizerRecipe& recipe) {
  std::vector<AdamWParameter> others;
  for (const ParameterInfo& info : parameter_groups(model))
    if (info.kind == ParameterKind::kVector) others.push_back({info.name, info.tensor, info.decay});
  AdamWOptions options;
  options.beta1 = recipe.adamw_beta1;
  options.beta2 = recipe.adamw_beta2;
  options.eps = recipe.adamw_eps;
  options.weight_decay = recipe.weight_decay;
  return AdamW(std::move(others), options);
}

}  // namespace

Optimizer::Optimizer(const TransformerImpl& model, const OptimizerRecipe& recipe)
    : recipe_(recipe),
      parameters_(model.parameters()),
      muon_(make_muon(model, recipe)),
      adamw_(make_adamw(model, recipe)) {}

void Optimizer::step(double multiplier) {
  muon_.step(recipe_.muon_lr * multiplier);
  adamw_.step(recipe_.adamw_lr * multiplier);
}

void Optimizer::zero_grad() {
  for (torch::Tensor& parameter : parameters_) parameter.mutable_grad().reset();
}

std::vector<torch::Tensor> Optimizer::gradients() const {
  std::vector<torch::Tensor> gradients;
  for (const torch::Tensor& parameter : parameters_)
    if (parameter.grad().defined()) gradients.push_back(parameter.grad());
  return gradients;
}

NamedTensors Optimizer::state() const {
  NamedTensors state = muon_.state();
  for (auto& entry : adamw_.state()) state.push_back(std::move(entry));
  return state;
}

double clip_gradients(const std::vector<torch::Tensor>& gradients, double max_norm) {
  if (gradients.empty()) return 0;
  const torch::NoGradGuard no_grad;
  const std::vector<torch::Tensor> norms = at::_foreach_norm(gradients, 2);
  const double norm = at::stack(norms).norm().item<double>();
  if (max_norm > 0 && norm > max_norm) at::_foreach_mul_(gradients, max_norm / (norm + 1e-6));
  return norm;
}

}  // namespace engram
