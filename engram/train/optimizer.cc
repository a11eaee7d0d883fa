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

std::vector<torch::Tensor> Optimizer::take_gradients() {
  std::vector<torch::Tensor> gradients;
  for (torch::Tensor& parameter : parameters_) {
    gradients.push_back(std::move(parameter.mutable_grad()));
    parameter.mutable_grad().reset();
  }
  return gradients;
}

void Optimizer::set_gradients(const std::vector<torch::Tensor>& gradients) {
  TORCH_CHECK(gradients.size() == parameters_.size(), "gradients: got ", gradients.size(), ", wanted ",
              parameters_.size());
  for (size_t i = 0; i < gradients.size(); ++i) parameters_[i].mutable_grad() = gradients[i];
}

NamedTensors Optimizer::state() const {
  NamedTensors state = muon_.state();
  for (auto& entry : adamw_.state()) state.push_back(std::move(entry));
  return state;
}

namespace {

std::vector<torch::Tensor> defined_ones(const std::vector<torch::Tensor>& tensors) {
  std::vector<torch::Tensor> defined;
  for (const torch::Tensor& tensor : tensors)
    if (tensor.defined()) defined.push_back(tensor);
  return defined;
}

}  // namespace

std::vector<double> gradient_squares(const std::vector<torch::Tensor>& gradients) {
  std::vector<double> squares(gradients.size());
  const std::vector<torch::Tensor> defined = defined_ones(gradients);
  if (defined.empty()) return squares;
  const torch::NoGradGuard no_grad;
  const torch::Tensor norms = at::stack(at::_foreach_norm(defined, 2)).to(torch::kCPU, torch::kFloat64);
  for (size_t i = 0, norm = 0; i < gradients.size(); ++i) {
    if (!gradients[i].defined()) continue;
    const double value = norms.const_data_ptr<double>()[norm++];
    squares[i] = value * value;
  }
  return squares;
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
