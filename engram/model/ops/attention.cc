// attend(): what lies between the projections of an attention layer.
#include <algorithm>
#include <cmath>

#include "engram/kernels/attention.h"
#include "engram/model/layers/attention.h"
#include "engram/model/ops/ops.h"
#include "engram/model/ops/support.h"

namespace engram {
namespace {

using internal::floats;
using internal::mutable_floats;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

double score_scale(const AttentionContext& context, const AttentionHeads& heads) {
  return context.score_factor / std::sqrt(static_cast<double>(heads.nope + heads.rope));
}

// fp32 rows whose columns are adjacent; rows of a wider tensor stay where they are.
torch::Tensor fp32_rows(const torch::Tensor& x) {
  torch::Tensor wide = x.to(torch::kFloat);
  return wide.stride(1) == 1 ? wide : wide.contiguous();
}

// One call's tensors and how the kernel sees a sequence of them.
struct Call {
  AttentionShape shape;
  int64_t batch = 0;
  bool shared_rope_key = false;
  torch::Tensor query, key_value, key_rope, cos, sin, first_key;

  AttentionInput sequence(int64_t b) const {
    const int64_t row = b * shape.length, pair = shape.nope + shape.value;
    AttentionInput input;
    input.query = {floats(query) + row * query.stride(0), query.stride(0), shape.width()};
    input.key = {floats(key_value) + row * key_value.stride(0), key_value.stride(0), pair};
    input.value = {input.key.data + shape.nope, key_value.stride(0), pair};
    input.key_rope = {floats(key_rope) + row * key_rope.stride(0), key_rope.stride(0),
                      shared_rope_key ? 0 : shape.rope};
    input.cos = floats(cos);
    input.sin = floats(sin);
    input.first_key = first_key.defined() ? first_key.const_data_ptr<int32_t>() + row : nullptr;
    return input;
  }
};

AttentionShape kernel_shape(const AttentionContext& context, const AttentionHeads& heads) {
  AttentionShape shape;
  shape.length = context.length;
  shape.heads = heads.heads;
  shape.kv_heads = heads.kv_heads;
  shape.nope = heads.nope;
  shape.rope = heads.rope;
  shape.value = heads.value;
  shape.interleaved = heads.interleaved;
  shape.scale = static_cast<float>(score_scale(context, heads));
  return shape;
}

// The gradient of the rotary keys from each head's share [B, kv_heads, T, rope].
torch::Tensor rope_key_gradient(const torch::Tensor& shares, const AttentionHeads& heads) {
  torch::Tensor by_token = heads.shared_rope_key ? shares.sum(1) : shares.transpose(1, 2);
  return by_token.reshape({shares.size(0) * shares.size(2), -1});
}

struct AttendFunction : torch::autograd::Function<AttendFunction> {
  static torch::Tensor forward(AutogradContext* autograd, const torch::Tensor& query, const torch::Tensor& key_value,
                               const torch::Tensor& key_rope, const AttentionContext& context,
                               const AttentionHeads& heads) {
    const Call call = make_call(query, key_value, key_rope, context, heads);
    const AttentionShape& shape = call.shape;
    torch::Tensor out = torch::empty({call.batch * shape.length, shape.heads * shape.value}, torch::kFloat);
    torch::Tensor log_sum = torch::empty({call.batch, shape.heads, shape.length}, torch::kFloat);
    parallel_tasks(call.batch * shape.kv_heads, [&](int64_t task) {
      const int64_t b = task / shape.kv_heads;
      attention_forward(shape, call.sequence(b), task % shape.kv_heads,
                        mutable_floats(out) + b * shape.length * out.size(1),
                        mutable_floats(log_sum) + b * shape.heads * shape.length);
    });
    autograd->save_for_backward(
        {query, key_value, key_rope, context.cos, context.sin, context.first_key, out, log_sum});
    autograd->saved_data["batch"] = context.batch;
    autograd->saved_data["length"] = context.length;
    autograd->saved_data["score_factor"] = context.score_factor;
    autograd->saved_data["heads"] = std::vector<int64_t>{heads.heads,
                                                         heads.kv_heads,
                                                         heads.nope,
                                                         heads.rope,
                                                         heads.value,
                                                         heads.interleaved ? 1 : 0,
                                                         heads.shared_rope_key ? 1 : 0};
    return out.to(query.scalar_type());
  }

  static tensor_list backward(AutogradContext* autograd, tensor_list gradients) {
    const auto saved = autograd->get_saved_variables();
    AttentionContext context;
    context.batch = autograd->saved_data["batch"].toInt();
    context.length = autograd->saved_data["length"].toInt();
    context.score_factor = autograd->saved_data["score_factor"].toDouble();
    context.cos = saved[3];
    context.sin = saved[4];
    context.first_key = saved[5];
    const std::vector<int64_t> h = autograd->saved_data["heads"].toIntVector();
    const AttentionHeads heads{h[0], h[1], h[2], h[3], h[4], h[5] != 0, h[6] != 0};
    const Call call = make_call(saved[0], saved[1], saved[2], context, heads);
    const torch::Tensor &out = saved[6], &log_sum = saved[7], dout = internal::to_fp32(gradients[0]);

    const AttentionShape& shape = call.shape;
    const int64_t length = shape.length;
    torch::Tensor dquery = torch::empty(saved[0].sizes(), torch::kFloat);
    torch::Tensor dkey_value = torch::empty(saved[1].sizes(), torch::kFloat);
    torch::Tensor shares = torch::empty({call.batch, shape.kv_heads, length, shape.rope}, torch::kFloat);
    parallel_tasks(call.batch * shape.kv_heads, [&](int64_t task) {
      const int64_t b = task / shape.kv_heads, row = b * length;
      AttentionGradients to;
      to.query = mutable_floats(dquery) + row * dquery.size(1);
      to.key_value = mutable_floats(dkey_value) + row * dkey_value.size(1);
      to.key_rope = mutable_floats(shares) + task * length * shape.rope;
      attention_backward(shape, call.sequence(b), task % shape.kv_heads, floats(out) + row * out.size(1),
                         floats(log_sum) + row * shape.heads, floats(dout) + row * out.size(1), to);
    });
    return {dquery.to(saved[0].scalar_type()), dkey_value.to(saved[1].scalar_type()),
            rope_key_gradient(shares, heads).to(saved[2].scalar_type()), torch::Tensor(), torch::Tensor()};
  }

  static Call make_call(const torch::Tensor& query, const torch::Tensor& key_value, const torch::Tensor& key_rope,
                        const AttentionContext& context, const AttentionHeads& heads) {
    Call call;
    call.shape = kernel_shape(context, heads);
    call.batch = context.batch;
    call.shared_rope_key = heads.shared_rope_key;
    call.query = fp32_rows(query);
    call.key_value = fp32_rows(key_value);
    call.key_rope = fp32_rows(key_rope);
    call.cos = internal::to_fp32(context.cos);
    call.sin = internal::to_fp32(context.sin);
    if (context.first_key.defined()) call.first_key = context.first_key.to(torch::kInt).contiguous();
    return call;
  }
};

// [B, T, H, c] -> [B, H, T, width] with zero columns up to width: the flash kernels want one width.
torch::Tensor padded_heads(const torch::Tensor& x, int64_t width) {
  return (x.size(-1) == width ? x : at::constant_pad_nd(x, {0, width - x.size(-1)})).transpose(1, 2);
}

// [B, 1, T, T] bool: which keys (last) a query sees.
torch::Tensor visible_keys(const AttentionContext& context) {
  torch::Tensor token = torch::arange(context.length, context.first_key.options());
  torch::Tensor causal = token.unsqueeze(0) <= token.unsqueeze(1);
  return (causal & (token.view({1, 1, -1}) >= context.first_key.unsqueeze(2))).unsqueeze(1);
}

}  // namespace

torch::Tensor attend(const torch::Tensor& query, const torch::Tensor& key_value, const torch::Tensor& key_rope,
                     const AttentionContext& context, const AttentionHeads& heads) {
  const int64_t n = context.batch * context.length;
  const std::vector<int64_t> query_shape = {n, heads.heads * (heads.nope + heads.rope)},
                             key_value_shape = {n, heads.kv_heads * (heads.nope + heads.value)},
                             key_rope_shape = {n, (heads.shared_rope_key ? 1 : heads.kv_heads) * heads.rope};
  TORCH_CHECK(
      query.sizes() == query_shape && key_value.sizes() == key_value_shape && key_rope.sizes() == key_rope_shape,
      "attend: got query ", query.sizes(), ", key_value ", key_value.sizes(), ", key_rope ", key_rope.sizes(),
      ", wanted ", query_shape, ", ", key_value_shape, ", ", key_rope_shape);
  TORCH_CHECK(context.cos.dim() == 2 && context.cos.size(0) == context.length &&
                  context.cos.size(1) * 2 == heads.rope && context.sin.sizes() == context.cos.sizes(),
              "attend: got cos ", context.cos.sizes(), ", wanted [", context.length, ", ", heads.rope / 2, ']');
  return internal::has_kernel(query) ? AttendFunction::apply(query, key_value, key_rope, context, heads)
                                     : attend_plain(query, key_value, key_rope, context, heads);
}

torch::Tensor attend_plain(const torch::Tensor& query, const torch::Tensor& key_value, const torch::Tensor& key_rope,
                           const AttentionContext& context, const AttentionHeads& heads) {
  const int64_t b = context.batch, t = context.length, group = heads.heads / heads.kv_heads;
  auto q = query.view({b, t, heads.heads, heads.nope + heads.rope}).split_with_sizes({heads.nope, heads.rope}, -1);
  auto kv =
      key_value.view({b, t, heads.kv_heads, heads.nope + heads.value}).split_with_sizes({heads.nope, heads.value}, -1);
  torch::Tensor q_rope = apply_rope_plain(q[1], context.cos, context.sin, heads.interleaved);
  torch::Tensor k_rope =
      apply_rope_plain(key_rope.view({b, t, -1, heads.rope}), context.cos, context.sin, heads.interleaved);
  torch::Tensor k = at::cat({kv[0], k_rope.expand({b, t, heads.kv_heads, heads.rope})}, -1), v = kv[1];
  if (group > 1) {
    k = k.repeat_interleave(group, 2);
    v = v.repeat_interleave(group, 2);
  }
  const int64_t width = std::max(heads.nope + heads.rope, heads.value);
  const bool masked = context.first_key.defined();
  torch::Tensor out = at::scaled_dot_product_attention(
      padded_heads(at::cat({q[0], q_rope}, -1), width), padded_heads(k, width), padded_heads(v, width),
      masked ? std::make_optional(visible_keys(context)) : std::nullopt, /*dropout_p=*/0.0, /*is_causal=*/!masked,
      score_scale(context, heads));
  return out.transpose(1, 2).narrow(-1, 0, heads.value).reshape({b * t, heads.heads * heads.value});
}

}  // namespace engram
