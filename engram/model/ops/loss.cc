// linear_cross_entropy: the head's product and its loss, with the gradients computed along the way.
#include <ATen/autocast_mode.h>

#include "engram/kernels/cross_entropy.h"
#include "engram/model/ops/ops.h"
#include "engram/model/ops/support.h"

namespace engram {
namespace {

using internal::to_fp32;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

// The loss sum [] and the scaled gradients that are wanted.
struct LossParts {
  torch::Tensor sum, dhidden, dweight;
};
struct WantedGradients {
  bool hidden = false, weight = false;
};

// bf16 factors with fp32 sums when the model trains in bf16. To be asked before autocast is excluded: a guard that
// excludes it also reads as switched off.
bool wants_bf16(const torch::Tensor& hidden) {
  const bool autocast =
      at::autocast::is_autocast_enabled(at::kCPU) && at::autocast::get_autocast_dtype(at::kCPU) == torch::kBFloat16;
  return (hidden.scalar_type() == torch::kBFloat16 || autocast) && bf16_cross_entropy_supported();
}

LossParts kernel_parts(const torch::Tensor& hidden_any, const torch::Tensor& weight_any, const torch::Tensor& targets,
                       double scale, WantedGradients wanted, bool bf16) {
  torch::Tensor hidden = to_fp32(hidden_any), weight = to_fp32(weight_any), ids = targets.contiguous();
  LossParts parts;
  CrossEntropyArguments arguments;
  arguments.tokens = hidden.size(0);
  arguments.dim = hidden.size(1);
  arguments.vocabulary = weight.size(0);
  arguments.hidden = internal::floats(hidden);
  arguments.weight = internal::floats(weight);
  arguments.targets = ids.const_data_ptr<int64_t>();
  arguments.gradient_scale = static_cast<float>(scale);
  arguments.bf16 = bf16;
  if (wanted.hidden || wanted.weight) {
    parts.dhidden = torch::empty_like(hidden);
    arguments.dhidden = internal::mutable_floats(parts.dhidden);
  }
  if (wanted.weight) {
    parts.dweight = torch::empty_like(weight);
    arguments.dweight = internal::mutable_floats(parts.dweight);
  }
  parts.sum = torch::scalar_tensor(cross_entropy(arguments, parallel_threads(), parallel_tasks), torch::kFloat);
  return parts;
}

// The same from libtorch operators, chunk by chunk, for other devices and double.
LossParts chunked_parts(const torch::Tensor& hidden, const torch::Tensor& weight_any, const torch::Tensor& targets,
                        double scale, WantedGradients wanted) {
  constexpr int64_t kLogitsPerChunk = int64_t{1} << 25;
  const int64_t tokens = hidden.size(0), rows = std::max<int64_t>(1, kLogitsPerChunk / (weight_any.size(0) + 1));
  const auto wide = hidden.scalar_type() == torch::kDouble ? torch::kDouble : torch::kFloat;
  torch::Tensor weight = weight_any.to(hidden.scalar_type());
  LossParts parts;
  parts.sum = torch::zeros({}, hidden.options().dtype(wide));
  if (wanted.hidden) parts.dhidden = torch::empty_like(hidden);
  if (wanted.weight) parts.dweight = torch::zeros_like(weight_any, torch::TensorOptions().dtype(wide));
  for (int64_t begin = 0; begin < tokens; begin += rows) {
    const int64_t count = std::min(rows, tokens - begin);
    torch::Tensor chunk = hidden.narrow(0, begin, count), ids = targets.narrow(0, begin, count).unsqueeze(1);
    torch::Tensor valid = (ids >= 0).to(wide), safe = ids.clamp_min(0);
    torch::Tensor log_p = torch::log_softmax(chunk.mm(weight.t()).to(wide), -1);
    parts.sum -= (log_p.gather(1, safe) * valid).sum();
    if (!wanted.hidden && !wanted.weight) continue;
    torch::Tensor dlogits = log_p.exp_().scatter_add_(1, safe, torch::full_like(valid, -1)).mul_(valid * scale);
    torch::Tensor narrow = dlogits.to(hidden.scalar_type());
    if (wanted.hidden) parts.dhidden.narrow(0, begin, count).copy_(narrow.mm(weight));
    if (wanted.weight) parts.dweight += narrow.t().mm(chunk);
  }
  return parts;
}

// Tokens whose target does not count (of a prompt, of padding) need no logits: their gradients are zero.
LossParts counted_parts(const torch::Tensor& hidden, const torch::Tensor& weight, const torch::Tensor& targets,
                        double scale, WantedGradients wanted, bool bf16) {
  const auto parts_of = [&](const torch::Tensor& rows, const torch::Tensor& ids) {
    return internal::has_kernel(hidden) ? kernel_parts(rows, weight, ids, scale, wanted, bf16)
                                        : chunked_parts(rows, weight, ids, scale, wanted);
  };
  const torch::Tensor counted = (targets >= 0).nonzero().squeeze(1);
  if (counted.numel() == targets.numel()) return parts_of(hidden, targets);
  LossParts parts = parts_of(hidden.index_select(0, counted), targets.index_select(0, counted));
  if (parts.dhidden.defined())
    parts.dhidden = torch::zeros(hidden.sizes(), parts.dhidden.options()).index_copy_(0, counted, parts.dhidden);
  return parts;
}

// Gradients are computed with the loss, so that logits never outlive their chunk; backward only scales them.
struct CrossEntropyFunction : torch::autograd::Function<CrossEntropyFunction> {
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& hidden, const torch::Tensor& weight,
                               const torch::Tensor& targets, bool reduction_sum, bool hidden_gradient,
                               bool weight_gradient, bool bf16) {
    c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const int64_t count = reduction_sum ? 1 : std::max<int64_t>(1, (targets >= 0).sum().item<int64_t>());
    const double scale = 1.0 / static_cast<double>(count);
    const WantedGradients wanted{hidden_gradient, weight_gradient};
    const LossParts parts = counted_parts(hidden, weight, targets, scale, wanted, bf16);
    context->save_for_backward({parts.dhidden, parts.dweight});
    context->saved_data["hidden_type"] = hidden.scalar_type();
    context->saved_data["weight_type"] = weight.scalar_type();
    return parts.sum * scale;
  }

  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    const auto saved = context->get_saved_variables();
    // A loss that is the root of the graph arrives with gradient 1, which changes nothing.
    const bool unit = gradients[0].device().is_cpu() && gradients[0].item<double>() == 1.0;
    auto scaled = [&](const torch::Tensor& t, const char* type) {
      return !t.defined() ? t : (unit ? t : t * gradients[0]).to(context->saved_data[type].toScalarType());
    };
    return {scaled(saved[0], "hidden_type"),
            scaled(saved[1], "weight_type"),
            torch::Tensor(),
            torch::Tensor(),
            torch::Tensor(),
            torch::Tensor(),
            torch::Tensor()};
  }
};

}  // namespace

torch::Tensor linear_cross_entropy(const torch::Tensor& hidden, const torch::Tensor& weight,
                                   const torch::Tensor& targets, bool reduction_sum) {
  TORCH_CHECK(hidden.dim() == 2 && weight.dim() == 2 && hidden.size(1) == weight.size(1) && targets.dim() == 1 &&
                  targets.size(0) == hidden.size(0) && targets.scalar_type() == torch::kLong && weight.size(0) > 0,
              "linear_cross_entropy: got hidden ", hidden.sizes(), ", weight ", weight.sizes(), ", targets ",
              targets.sizes(), ' ', targets.scalar_type(), ", wanted [N, d], [V, d], [N] int64");
  if (hidden.device().is_cpu() && targets.numel() > 0) {
    const int64_t most = targets.max().item<int64_t>();
    TORCH_CHECK(most < weight.size(0), "linear_cross_entropy: got target ", most, ", wanted at most ",
                weight.size(0) - 1);
  }
  const bool gradients = at::GradMode::is_enabled();
  return CrossEntropyFunction::apply(hidden, weight, targets, reduction_sum, gradients && hidden.requires_grad(),
                                     gradients && weight.requires_grad(), wants_bf16(hidden));
}

}  // namespace engram
