#include "engram/train/adamw.h"

#include <map>

namespace engram {

AdamW::AdamW(std::vector<AdamWParameter> parameters, const AdamWOptions& options)
    : parameters_(std::move(parameters)), options_(options) {
  const torch::NoGradGuard no_grad;
  for (const AdamWParameter& p : parameters_) {
    const auto home = p.parameter.options().device(p.owned ? p.parameter.device() : torch::Device("meta"));
    exp_avg_.push_back(torch::zeros_like(p.parameter, home));
    exp_avg_sq_.push_back(torch::zeros_like(p.parameter, home));
  }
  const torch::Device device = parameters_.empty() ? torch::kCPU : parameters_[0].parameter.device();
  steps_ = torch::zeros({}, torch::TensorOptions().dtype(torch::kFloat32).device(device));
}

void AdamW::step(double lr) {
  const torch::NoGradGuard no_grad;
  steps_.add_(1);
  struct Call {  // parameters that share all numbers
    std::vector<torch::Tensor> parameters, grads, exp_avgs, exp_avg_sqs;
  };
  std::map<std::pair<bool, double>, Call> calls;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const torch::Tensor& grad = parameters_[i].parameter.grad();
    if (!grad.defined()) continue;
    Call& call = calls[{parameters_[i].decays, parameters_[i].lr_factor}];
    call.parameters.push_back(parameters_[i].parameter);
    call.grads.push_back(grad);
    call.exp_avgs.push_back(exp_avg_[i]);
    call.exp_avg_sqs.push_back(exp_avg_sq_[i]);
  }
  for (auto& [numbers, call] : calls) {
    const auto [decays, factor] = numbers;
    const std::vector<torch::Tensor> steps(call.parameters.size(), steps_);
    at::_fused_adamw_(call.parameters, call.grads, call.exp_avgs, call.exp_avg_sqs, /*max_exp_avg_sqs=*/{}, steps,
                      lr * factor, options_.beta1, options_.beta2, decays ? options_.weight_decay : 0.0, options_.eps,
                      /*amsgrad=*/false, /*maximize=*/false);
  }
}

std::vector<std::pair<std::string, torch::Tensor>> AdamW::state() const {
  std::vector<std::pair<std::string, torch::Tensor>> state;
  state.emplace_back("adamw.steps", steps_);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    state.emplace_back("adamw.exp_avg." + parameters_[i].name, exp_avg_[i]);
    state.emplace_back("adamw.exp_avg_sq." + parameters_[i].name, exp_avg_sq_[i]);
  }
  return state;
}

}  // namespace engram
