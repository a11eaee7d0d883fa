// engram_fuse: gates, value and convolution through engram/kernels/engram_fuse.h; engram_fuse_paged: the same for the
// new tokens of a step.
#include "engram/kernels/engram_fuse.h"

#include "engram/kernels/paged_engram.h"
#include "engram/model/ops/support.h"
#include "engram/model/paged/paged_ops.h"

namespace engram {
namespace {

using internal::floats;
using internal::mutable_floats;
using internal::to_fp32;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

constexpr int64_t kStateFloats = sizeof(EngramTokenState) / sizeof(float);

// The fp32 tensors of one call. Norms and conv are undefined where the options leave them out.
struct FuseTensors {
  torch::Tensor hidden, projected, query_norm, key_norm, conv_norm, conv_weight, reach;

  EngramInput input() const {
    EngramInput in;
    in.hidden = floats(hidden);
    in.projected = floats(projected);
    in.query_norm = floats(query_norm);
    in.key_norm = floats(key_norm);
    in.conv_norm = floats(conv_norm);
    in.conv_weight = floats(conv_weight);
    in.reach = reach.defined() ? reach.const_data_ptr<int32_t>() : nullptr;
    return in;
  }
};

EngramShape fuse_shape(const FuseTensors& t, int64_t dilation, double gate_eps, double conv_eps, bool gate) {
  EngramShape shape;
  shape.batch = t.hidden.size(0);
  shape.length = t.hidden.size(1);
  shape.streams = t.hidden.size(2);
  shape.dim = t.hidden.size(3);
  shape.taps = t.conv_weight.defined() ? t.conv_weight.size(1) : 0;
  shape.dilation = dilation;
  shape.gate_norm_eps = static_cast<float>(gate_eps);
  shape.conv_norm_eps = static_cast<float>(conv_eps);
  shape.gate = gate;
  return shape;
}

torch::Tensor folded_taps(const EngramShape& shape, const EngramInput& input) {
  torch::Tensor taps = torch::empty({shape.taps, shape.channels()}, torch::kFloat);
  if (shape.taps > 0) engram_fold_taps(shape, input, mutable_floats(taps));
  return taps;
}

EngramTokenState* states(const torch::Tensor& state) {
  return reinterpret_cast<EngramTokenState*>(state.mutable_data_ptr<float>());
}

torch::Tensor optional_fp32(const torch::Tensor& x) { return x.defined() ? to_fp32(x) : x; }

// An undefined tensor may not enter a Function; an empty optional may.
using Optional = std::optional<torch::Tensor>;
Optional optional(const torch::Tensor& x) { return x.defined() ? Optional(x) : std::nullopt; }

struct FuseFunction : torch::autograd::Function<FuseFunction> {
  static tensor_list forward(AutogradContext* context, const torch::Tensor& hidden, const torch::Tensor& projected,
                             const torch::Tensor& query_norm, const torch::Tensor& key_norm,
                             const Optional& conv_norm_any, const Optional& conv_weight_any, const Optional& reach_any,
                             int64_t dilation, double gate_eps, double conv_eps, bool gate) {
    const torch::Tensor conv_norm = conv_norm_any.value_or(torch::Tensor());
    const torch::Tensor conv_weight = conv_weight_any.value_or(torch::Tensor());
    const torch::Tensor reach = reach_any.value_or(torch::Tensor());
    FuseTensors t{to_fp32(hidden),
                  to_fp32(projected),
                  to_fp32(query_norm),
                  to_fp32(key_norm),
                  optional_fp32(conv_norm),
                  optional_fp32(conv_weight),
                  reach};
    if (reach.defined()) t.reach = reach.to(torch::kInt).contiguous();
    const EngramShape shape = fuse_shape(t, dilation, gate_eps, conv_eps, gate);
    const EngramInput input = t.input();
    torch::Tensor alpha = torch::empty({shape.batch, shape.length, shape.streams}, t.hidden.options());
    torch::Tensor state = torch::empty({shape.tokens() * shape.streams, kStateFloats}, t.hidden.options());
    torch::Tensor taps = folded_taps(shape, input), y = torch::empty_like(t.hidden);
    const int64_t grain = internal::row_grain(4 * shape.channels());
    parallel_ranges(shape.tokens(), grain, [&](int64_t begin, int64_t end) {
      engram_gate_forward(shape, input, begin, end, mutable_floats(alpha), states(state));
    });
    parallel_ranges(shape.tokens(), grain, [&](int64_t begin, int64_t end) {
      engram_mix_forward(shape, input, floats(taps), floats(alpha), states(state), begin, end, mutable_floats(y));
    });
    context->save_for_backward(
        {t.hidden, t.projected, t.query_norm, t.key_norm, t.conv_norm, t.conv_weight, t.reach, alpha, state, taps});
    context->saved_data["dilation"] = dilation;
    context->saved_data["gate_eps"] = gate_eps;
    context->saved_data["conv_eps"] = conv_eps;
    context->saved_data["gate"] = gate;
    std::vector<int64_t> types;
    for (const torch::Tensor* x : {&hidden, &projected, &query_norm, &key_norm, &conv_norm, &conv_weight}) {
      types.push_back(static_cast<int64_t>(x->defined() ? x->scalar_type() : torch::kFloat));
    }
    context->saved_data["types"] = types;
    torch::Tensor gates = alpha.clone();
    context->mark_non_differentiable({gates});
    return {y.to(hidden.scalar_type()), gates};
  }

  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    const auto saved = context->get_saved_variables();
    const FuseTensors t{saved[0], saved[1], saved[2], saved[3], saved[4], saved[5], saved[6]};
    const torch::Tensor &alpha = saved[7], &state = saved[8], &taps = saved[9];
    auto& data = context->saved_data;
    const EngramShape shape = fuse_shape(t, data["dilation"].toInt(), data["gate_eps"].toDouble(),
                                         data["conv_eps"].toDouble(), data["gate"].toBool());
    const EngramInput input = t.input();
    torch::Tensor dy = to_fp32(gradients[0]), dz, tap_sums;
    if (shape.taps > 0) {
      dz = torch::empty_like(t.hidden);
      tap_sums = internal::sum_over_rows(shape.tokens(), shape.taps * shape.channels(),
                                         [&](int64_t begin, int64_t end, float* partial) {
                                           engram_mix_backward(shape, input, floats(taps), floats(alpha), states(state),
                                                               floats(dy), begin, end, mutable_floats(dz), partial);
                                         });
    }
    torch::Tensor dhidden = torch::empty_like(t.hidden), dprojected = torch::empty_like(t.projected);
    torch::Tensor norm_sums =
        internal::sum_over_rows(shape.tokens(), shape.channels(), [&](int64_t begin, int64_t end, float* partial) {
          std::vector<float> scratch(static_cast<size_t>(shape.dim));
          engram_gate_backward(shape, input, floats(taps), floats(alpha), states(state), floats(dy), floats(dz), begin,
                               end, mutable_floats(dhidden), mutable_floats(dprojected), partial, scratch.data());
        });
    auto like = [](const torch::Tensor& x) { return x.defined() ? torch::empty_like(x) : x; };
    tensor_list out{dhidden, dprojected, like(t.query_norm), like(t.key_norm), like(t.conv_norm), like(t.conv_weight)};
    engram_weight_gradients(
        shape, input, floats(tap_sums), floats(norm_sums),
        {mutable_floats(out[2]), mutable_floats(out[3]), mutable_floats(out[4]), mutable_floats(out[5])});
    const auto types = data["types"].toIntVector();
    for (size_t i = 0; i < out.size(); ++i) {
      if (out[i].defined()) out[i] = out[i].to(static_cast<torch::ScalarType>(types[i]));
    }
    out.resize(11);
    return out;
  }
};

void check_fuse(const torch::Tensor& hidden, const torch::Tensor& projected, const torch::Tensor& query_norm,
                const torch::Tensor& key_norm, const torch::Tensor& conv_norm, const torch::Tensor& conv_weight,
                const torch::Tensor& reach, const EngramFuseOptions& options) {
  TORCH_CHECK(hidden.dim() == 4, "engram_fuse: got hidden ", hidden.sizes(), ", wanted [B, T, M, d]");
  const int64_t batch = hidden.size(0), length = hidden.size(1), streams = hidden.size(2), dim = hidden.size(3);
  TORCH_CHECK(projected.sizes() == torch::IntArrayRef({batch, length, (streams + 1) * dim}),
              "engram_fuse: got projected ", projected.sizes(), ", wanted [", batch, ", ", length, ", ",
              (streams + 1) * dim, "]");
  auto check_norm = [&](const char* name, const torch::Tensor& weight) {
    TORCH_CHECK(weight.defined() && weight.sizes() == torch::IntArrayRef({streams, dim}), "engram_fuse: ", name,
                " must be [", streams, ", ", dim, "]");
  };
  check_norm("query_norm", query_norm);
  check_norm("key_norm", key_norm);
  if (conv_weight.defined()) {
    check_norm("conv_norm", conv_norm);
    TORCH_CHECK(conv_weight.dim() == 2 && conv_weight.size(0) == streams * dim && conv_weight.size(1) > 0,
                "engram_fuse: got conv_weight ", conv_weight.sizes(), ", wanted [", streams * dim, ", w]");
    TORCH_CHECK(options.dilation > 0, "engram_fuse: got dilation ", options.dilation, ", wanted at least 1");
  }
  TORCH_CHECK(
      !reach.defined() || (reach.sizes() == torch::IntArrayRef({batch, length}) && reach.scalar_type() == torch::kInt),
      "engram_fuse: got reach ", reach.defined() ? reach.sizes() : torch::IntArrayRef(), ", wanted [", batch, ", ",
      length, "] int32");
}

}  // namespace

std::pair<torch::Tensor, torch::Tensor> engram_fuse(const torch::Tensor& hidden, const torch::Tensor& projected,
                                                    const torch::Tensor& query_norm, const torch::Tensor& key_norm,
                                                    const torch::Tensor& conv_norm, const torch::Tensor& conv_weight,
                                                    const torch::Tensor& reach, const EngramFuseOptions& options) {
  check_fuse(hidden, projected, query_norm, key_norm, conv_norm, conv_weight, reach, options);
  if (!internal::has_kernel(hidden)) {
    return engram_fuse_plain(hidden, projected, query_norm, key_norm, conv_norm, conv_weight, reach, options);
  }
  tensor_list out = FuseFunction::apply(hidden, projected, query_norm, key_norm,
                                        conv_weight.defined() ? optional(conv_norm) : std::nullopt,
                                        optional(conv_weight), optional(reach), options.dilation, options.gate_norm_eps,
                                        options.conv_norm_eps, options.gate);
  return {out[0], out[1]};
}

torch::Tensor fold_taps(const torch::Tensor& conv_norm, const torch::Tensor& conv_weight) {
  if (!conv_weight.defined()) return {};
  const torch::Tensor norm = to_fp32(conv_norm.detach()), weight = to_fp32(conv_weight.detach());
  EngramShape shape;
  shape.streams = norm.size(0);
  shape.dim = norm.size(1);
  shape.taps = weight.size(1);
  EngramInput input;
  input.conv_norm = floats(norm);
  input.conv_weight = floats(weight);
  return folded_taps(shape, input);
}

std::pair<torch::Tensor, torch::Tensor> engram_fuse_paged(const torch::Tensor& hidden, const torch::Tensor& projected,
                                                          const torch::Tensor& query_norm,
                                                          const torch::Tensor& key_norm, const torch::Tensor& conv_norm,
                                                          const torch::Tensor& conv_weight, const torch::Tensor& taps,
                                                          const PagedStep& step, torch::Tensor& cache,
                                                          const EngramFuseOptions& options) {
  if (!internal::has_kernel(hidden)) {
    return engram_fuse_paged_plain(hidden, projected, query_norm, key_norm, conv_norm, conv_weight, step, cache,
                                   options);
  }
  const FuseTensors t{to_fp32(hidden).unsqueeze(0),
                      to_fp32(projected).unsqueeze(0),
                      to_fp32(query_norm),
                      to_fp32(key_norm),
                      conv_weight.defined() ? to_fp32(conv_norm) : torch::Tensor(),
                      optional_fp32(conv_weight),
                      {}};
  const EngramShape shape = fuse_shape(t, options.dilation, options.gate_norm_eps, options.conv_norm_eps, options.gate);
  const EngramInput input = t.input();
  const int64_t n = shape.length, grain = internal::row_grain(4 * shape.channels());
  torch::Tensor gates = torch::empty({n, shape.streams}, torch::kFloat), y = torch::empty_like(t.hidden[0]);
  torch::Tensor state = torch::empty({n * shape.streams, kStateFloats}, torch::kFloat);
  parallel_ranges(n, grain, [&](int64_t begin, int64_t end) {
    engram_gate_forward(shape, input, begin, end, mutable_floats(gates), states(state));
  });
  torch::Tensor inv_value = torch::empty_like(gates);
  for (int64_t i = 0; i < gates.numel(); ++i) mutable_floats(inv_value)[i] = states(state)[i].inv_value;
  const internal::PagedRow paged = internal::page_rows(t.projected[0], gates, inv_value, step.memory_off(), shape.dim);
  cache.index_copy_(0, step.slots(), paged.row);

  const torch::Tensor tap_slots = shape.taps > 0 ? step.tap_slots(shape.taps, options.dilation) : torch::Tensor();
  const PagedEngramShape page_shape{shape.streams, shape.dim, shape.taps};
  parallel_ranges(n, grain, [&](int64_t begin, int64_t end) {
    paged_engram_mix(page_shape, floats(taps), floats(cache), step.slots().const_data_ptr<int64_t>(),
                     tap_slots.defined() ? tap_slots.const_data_ptr<int64_t>() : nullptr, begin, end,
                     mutable_floats(y));
  });
  return {y.to(hidden.scalar_type()), paged.gates};
}

}  // namespace engram
