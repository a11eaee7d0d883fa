// hyper_mix() and hyper_merge(): the fused forms and their choice.
#include "engram/model/layers/hyper_connection.h"
#include "engram/kernels/hyper.h"
#include "engram/model/ops/support.h"

namespace engram {
namespace {

using internal::floats;
using internal::mutable_floats;
using internal::to_fp32;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

HyperShape kernel_shape(const torch::Tensor& streams_Nnd, const HyperOptions& options) {
  HyperShape shape;
  shape.streams = streams_Nnd.size(1);
  shape.dim = streams_Nnd.size(2);
  shape.iterations = options.iterations;
  shape.eps = static_cast<float>(options.eps);
  shape.norm_eps = static_cast<float>(options.norm_eps);
  return shape;
}

// Rows per task: whole blocks of the kernel.
constexpr int64_t kRowGrain = 64;

struct MixFunction : torch::autograd::Function<MixFunction> {
  static tensor_list forward(AutogradContext* context, const torch::Tensor& streams, const torch::Tensor& fn_any,
                             const torch::Tensor& base_any, const torch::Tensor& scale_any,
                             const HyperOptions& options) {
    torch::Tensor x = to_fp32(streams), fn = to_fp32(fn_any), base = to_fp32(base_any), scale = to_fp32(scale_any);
    const HyperShape shape = kernel_shape(x, options);
    const int64_t rows = x.size(0);
    // Few rows are worth no copy of fn.
    const bool few = c10::InferenceMode::is_enabled() && rows <= kFewRows;
    torch::Tensor fn_transposed = few ? torch::Tensor() : fn.t().contiguous();
    torch::Tensor input = torch::empty({rows, shape.dim}, x.options());
    torch::Tensor coefficients = torch::empty({rows, shape.mixes()}, x.options());
    torch::Tensor mixed = torch::empty_like(coefficients), inv_rms = torch::empty({rows}, x.options());
    parallel_ranges(rows, kRowGrain, [&](int64_t begin, int64_t end) {
      hyper_mix_forward(shape, floats(x), floats(fn), floats(fn_transposed), floats(base), floats(scale), begin, end,
                        mutable_floats(input), mutable_floats(coefficients), mutable_floats(mixed),
                        mutable_floats(inv_rms));
    });
    context->save_for_backward({x, fn, base, scale, coefficients, mixed, inv_rms});
    context->saved_data["iterations"] = options.iterations;
    context->saved_data["eps"] = options.eps;
    context->saved_data["norm_eps"] = options.norm_eps;
    return {input, coefficients};
  }

  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    const auto saved = context->get_saved_variables();
    const torch::Tensor& x = saved[0];
    HyperOptions options;
    options.iterations = static_cast<int>(context->saved_data["iterations"].toInt());
    options.eps = context->saved_data["eps"].toDouble();
    options.norm_eps = context->saved_data["norm_eps"].toDouble();
    const HyperShape shape = kernel_shape(x, options);
    const torch::Tensor dinput = to_fp32(gradients[0]), dcoefficients = to_fp32(gradients[1]);
    const HyperMixSaved seen = {floats(x),        floats(saved[1]), floats(saved[2]), floats(saved[3]),
                                floats(saved[4]), floats(saved[5]), floats(saved[6])};
    torch::Tensor dx = torch::empty_like(x);
    const int64_t mixes = shape.mixes(), fn_size = mixes * shape.row();
    // A copy, so that the gradients do not keep the partial sums alive.
    torch::Tensor dparameters =
        internal::sum_over_rows(x.size(0), fn_size + mixes + 3, [&](int64_t begin, int64_t end, float* partial) {
          hyper_mix_backward(shape, seen, floats(dinput), floats(dcoefficients), begin, end, mutable_floats(dx),
                             partial);
        }).clone();
    return {dx, dparameters.narrow(0, 0, fn_size).view({mixes, shape.row()}), dparameters.narrow(0, fn_size, mixes),
            dparameters.narrow(0, fn_size + mixes, 3), torch::Tensor()};
  }
};

struct MergeFunction : torch::autograd::Function<MergeFunction> {
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& coefficients_any,
                               const torch::Tensor& streams, const torch::Tensor& output_any) {
    torch::Tensor coefficients = to_fp32(coefficients_any), x = to_fp32(streams), output = to_fp32(output_any);
    const HyperShape shape = kernel_shape(x, {});
    torch::Tensor y = torch::empty_like(x);
    parallel_ranges(x.size(0), kRowGrain, [&](int64_t begin, int64_t end) {
      hyper_merge_forward(shape, floats(coefficients), floats(x), floats(output), begin, end, mutable_floats(y));
    });
    context->save_for_backward({coefficients, x, output});
    context->saved_data["output_type"] = output_any.scalar_type();
    return y;
  }

  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    const auto saved = context->get_saved_variables();
    const torch::Tensor &coefficients = saved[0], &x = saved[1], &output = saved[2], dy = to_fp32(gradients[0]);
    const HyperShape shape = kernel_shape(x, {});
    torch::Tensor dcoefficients = torch::empty_like(coefficients), dx = torch::empty_like(x);
    torch::Tensor doutput = torch::empty_like(output);
    const HyperMergeGradients to = {mutable_floats(dcoefficients), mutable_floats(dx), mutable_floats(doutput)};
    parallel_ranges(x.size(0), kRowGrain, [&](int64_t begin, int64_t end) {
      hyper_merge_backward(shape, floats(coefficients), floats(x), floats(output), floats(dy), begin, end, to);
    });
    return {dcoefficients, dx, doutput.to(context->saved_data["output_type"].toScalarType())};
  }
};

// The residual stream is fp32 even under autocast; other dtypes take the plain form.
bool fused(const torch::Tensor& streams) { return streams.device().is_cpu() && streams.scalar_type() == torch::kFloat; }

}  // namespace

HyperMix hyper_mix(const torch::Tensor& streams_Nnd, const torch::Tensor& fn, const torch::Tensor& base,
                   const torch::Tensor& scale, const HyperOptions& options) {
  const int64_t n = options.streams, mixes = (2 + n) * n;
  TORCH_CHECK(streams_Nnd.dim() == 3 && streams_Nnd.size(1) == n && fn.dim() == 2 && fn.size(0) == mixes &&
                  fn.size(1) == n * streams_Nnd.size(2) && base.numel() == mixes && scale.numel() == 3,
              "hyper_mix: got streams ", streams_Nnd.sizes(), ", fn ", fn.sizes(), ", base ", base.sizes(), ", scale ",
              scale.sizes(), ", wanted [N, ", n, ", d], [", mixes, ", n * d], [", mixes, "], [3]");
  if (!fused(streams_Nnd)) return hyper_mix_plain(streams_Nnd, fn, base, scale, options);
  const tensor_list results = MixFunction::apply(streams_Nnd, fn, base, scale, options);
  return {results[0], results[1]};
}

torch::Tensor hyper_merge(const torch::Tensor& coefficients_NK, const torch::Tensor& streams_Nnd,
                          const torch::Tensor& output_Nd) {
  const int64_t n = streams_Nnd.size(1);
  TORCH_CHECK(streams_Nnd.dim() == 3 && coefficients_NK.dim() == 2 && coefficients_NK.size(1) == (2 + n) * n &&
                  output_Nd.dim() == 2 && output_Nd.size(0) == streams_Nnd.size(0) &&
                  coefficients_NK.size(0) == streams_Nnd.size(0) && output_Nd.size(1) == streams_Nnd.size(2),
              "hyper_merge: got coefficients ", coefficients_NK.sizes(), ", streams ", streams_Nnd.sizes(), ", output ",
              output_Nd.sizes(), ", wanted [N, (2 + n) * n], [N, n, d], [N, d]");
  return fused(streams_Nnd) ? MergeFunction::apply(coefficients_NK, streams_Nnd, output_Nd)
                            : hyper_merge_plain(coefficients_NK, streams_Nnd, output_Nd);
}

}  // namespace engram
