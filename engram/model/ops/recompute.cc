#include "engram/model/ops/recompute.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>
#include <utility>

#include "engram/model/ops/autocast.h"

namespace engram {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

thread_local bool recomputing = false;

class Recomputing {
 public:
  Recomputing() { recomputing = true; }
  ~Recomputing() { recomputing = false; }
  Recomputing(const Recomputing&) = delete;
  Recomputing& operator=(const Recomputing&) = delete;
};

struct Part : torch::CustomClassHolder {
  RecomputedPart run;
  size_t inputs = 0;
  c10::DeviceType device = c10::kCPU;
  std::optional<at::ScalarType> autocast;
};

struct RecomputeFunction : torch::autograd::Function<RecomputeFunction> {
  static torch::Tensor forward(AutogradContext* context, const c10::intrusive_ptr<Part>& part,
                               torch::TensorList tensors) {
    torch::Tensor out = part->run(tensors.slice(0, part->inputs).vec());
    // Weights that autocast has converted here have lost their way to the gradient.
    if (part->autocast) at::autocast::clear_cache();
    context->save_for_backward(tensors.vec());
    context->saved_data["part"] = c10::IValue::make_capsule(part);
    return out;
  }

  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    tensor_list tensors = context->get_saved_variables(), wanted;
    const auto capsule = context->saved_data["part"].toCapsule();
    const auto& part = static_cast<const Part&>(*capsule);
    for (size_t i = 0; i < part.inputs; ++i)
      tensors[i] = tensors[i].detach().requires_grad_(tensors[i].requires_grad());
    torch::Tensor out;
    {
      const at::AutoGradMode with_gradients(true);
      const Recomputing again;
      const Autocast autocast(part.autocast.has_value(), part.device, part.autocast.value_or(at::kBFloat16));
      out = part.run({tensors.begin(), tensors.begin() + static_cast<std::ptrdiff_t>(part.inputs)});
    }
    for (const torch::Tensor& tensor : tensors)
      if (tensor.requires_grad()) wanted.push_back(tensor);
    tensor_list found = torch::autograd::grad({out}, wanted, {gradients[0]}, /*retain_graph=*/std::nullopt,
                                              /*create_graph=*/false, /*allow_unused=*/true);
    tensor_list all(tensors.size() + 1);  // the part itself has none
    size_t next = 0;
    for (size_t i = 0; i < tensors.size(); ++i)
      if (tensors[i].requires_grad()) all[i + 1] = std::move(found[next++]);
    return all;
  }
};

}  // namespace

bool is_recomputing() { return recomputing; }

torch::Tensor recompute(RecomputedPart part, const std::vector<torch::Tensor>& inputs,
                        const std::vector<torch::Tensor>& parameters) {
  const auto shared = c10::make_intrusive<Part>();
  shared->run = std::move(part);
  shared->inputs = inputs.size();
  shared->device = inputs.at(0).device().type();
  if (at::autocast::is_autocast_enabled(shared->device))
    shared->autocast = at::autocast::get_autocast_dtype(shared->device);
  std::vector<torch::Tensor> tensors = inputs;
  for (const torch::Tensor& parameter : parameters)
    if (parameter.requires_grad()) tensors.push_back(parameter);
  return RecomputeFunction::apply(shared, torch::TensorList(tensors));
}

}  // namespace engram
