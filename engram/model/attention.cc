#include "engram/model/attention.h"

#include <algorithm>
#include <cmath>

#include "engram/model/ops.h"

namespace engram {
namespace {

// The two latent norms keep their own eps in DeepSeek's code, whatever rms_norm_eps is.
constexpr double kLatentNormEps = 1e-6;

torch::Tensor padded_heads(const torch::Tensor& x, int64_t width) {
  return x.size(-1) == width ? x : at::constant_pad_nd(x, {0, width - x.size(-1)});
}

}  // namespace

torch::Tensor causal_attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v, double scale,
                               const torch::Tensor& mask) {
  const int64_t batch = q.size(0), length = q.size(1), heads = q.size(2), value = v.size(-1);
  const int64_t width = std::max(q.size(-1), value);
  torch::Tensor out = at::scaled_dot_product_attention(
      padded_heads(q, width).transpose(1, 2), padded_heads(k, width).transpose(1, 2),
      padded_heads(v, width).transpose(1, 2), mask.defined() ? std::make_optional(mask) : std::nullopt,
      /*dropout_p=*/0.0, /*is_causal=*/!mask.defined(), scale);
  out = out.transpose(1, 2);
  if (value != width) out = out.narrow(-1, 0, value);
  return out.reshape({batch * length, heads * value});
}

MlaAttentionImpl::MlaAttentionImpl(const ModelConfig& c)
    : heads_(c.num_attention_heads),
      q_lora_rank_(c.q_lora_rank),
      kv_lora_rank_(c.kv_lora_rank),
      nope_(c.qk_nope_head_dim),
      rope_(c.qk_rope_head_dim),
      value_(c.v_head_dim),
      query_columns_(heads_ * (nope_ + rope_)) {
  const double std = c.initializer_range;
  const int64_t first = q_lora_rank_ > 0 ? q_lora_rank_ : query_columns_;
  q_kv_a_proj_ = register_module("q_kv_a_proj", Linear(c.hidden_size, first + kv_lora_rank_ + rope_, std));
  if (q_lora_rank_ > 0) {
    q_a_layernorm_ = register_module("q_a_layernorm", RmsNorm(q_lora_rank_, kLatentNormEps));
    q_b_proj_ = register_module("q_b_proj", Linear(q_lora_rank_, query_columns_, std));
  }
  kv_a_layernorm_ = register_module("kv_a_layernorm", RmsNorm(kv_lora_rank_, kLatentNormEps));
  kv_b_proj_ = register_module("kv_b_proj", Linear(kv_lora_rank_, heads_ * (nope_ + value_), std));
  o_proj_ = register_module("o_proj", Linear(heads_ * value_, c.hidden_size, std));
}

torch::Tensor MlaAttentionImpl::forward(const torch::Tensor& x_Nd, const AttentionContext& context) {
  const int64_t batch = context.batch, length = context.length;
  // split, not slices: its backward is one concatenation.
  const int64_t first = q_lora_rank_ > 0 ? q_lora_rank_ : query_columns_;
  auto down = q_kv_a_proj_(x_Nd).split_with_sizes({first, kv_lora_rank_, rope_}, -1);
  torch::Tensor query = q_lora_rank_ > 0 ? q_b_proj_(q_a_layernorm_(down[0])) : down[0];
  torch::Tensor key_value = kv_b_proj_(kv_a_layernorm_(down[1]));

  auto q = query.view({batch, length, heads_, nope_ + rope_}).split_with_sizes({nope_, rope_}, -1);
  auto kv = key_value.view({batch, length, heads_, nope_ + value_}).split_with_sizes({nope_, value_}, -1);
  torch::Tensor q_rope = apply_rope(q[1], context.cos, context.sin, /*interleaved=*/true);
  torch::Tensor k_rope =
      apply_rope(down[2].view({batch, length, 1, rope_}), context.cos, context.sin, /*interleaved=*/true);
  torch::Tensor attended = causal_attention(
      at::cat({q[0], q_rope}, -1), at::cat({kv[0], k_rope.expand({batch, length, heads_, rope_})}, -1), kv[1],
      1.0 / std::sqrt(static_cast<double>(nope_ + rope_)), context.mask);
  return o_proj_(attended);
}

GqaAttentionImpl::GqaAttentionImpl(const ModelConfig& c)
    : heads_(c.num_attention_heads), kv_heads_(c.num_key_value_heads), head_dim_(c.head_dim) {
  qkv_proj_ = register_module("qkv_proj",
                              Linear(c.hidden_size, (heads_ + 2 * kv_heads_) * head_dim_, c.initializer_range));
  o_proj_ = register_module("o_proj", Linear(heads_ * head_dim_, c.hidden_size, c.initializer_range));
}

torch::Tensor GqaAttentionImpl::forward(const torch::Tensor& x_Nd, const AttentionContext& context) {
  const int64_t batch = context.batch, length = context.length;
  // Queries and keys turn by the same angles, so they are rotated as one tensor.
  auto parts = qkv_proj_(x_Nd)
                   .view({batch, length, heads_ + 2 * kv_heads_, head_dim_})
                   .split_with_sizes({heads_ + kv_heads_, kv_heads_}, 2);
  auto rotated = apply_rope(parts[0], context.cos, context.sin, /*interleaved=*/false)
                     .split_with_sizes({heads_, kv_heads_}, 2);
  const auto repeated = [&](const torch::Tensor& x) {
    if (heads_ == kv_heads_) return x;
    return x.unsqueeze(3)
        .expand({batch, length, kv_heads_, heads_ / kv_heads_, head_dim_})
        .reshape({batch, length, heads_, head_dim_});
  };
  torch::Tensor attended = causal_attention(rotated[0], repeated(rotated[1]), repeated(parts[1]),
                                            1.0 / std::sqrt(static_cast<double>(head_dim_)), context.mask);
  return o_proj_(attended);
}

std::shared_ptr<AttentionImpl> make_attention(const ModelConfig& config) {
  if (config.attention == AttentionKind::kMla) return std::make_shared<MlaAttentionImpl>(config);
  return std::make_shared<GqaAttentionImpl>(config);
}

int64_t rotary_columns(const ModelConfig& config) {
  return config.attention == AttentionKind::kMla ? config.qk_rope_head_dim : config.head_dim;
}

void RotaryCache::fill(AttentionContext& context, torch::Device device, torch::Dtype dtype) {
  if (!cos_.defined() || cos_.size(0) < context.length || cos_.device() != device || cos_.scalar_type() != dtype) {
    const auto options = torch::TensorOptions().dtype(torch::kFloat);
    torch::Tensor exponent = torch::arange(0, columns_, 2, options) / static_cast<double>(columns_);
    torch::Tensor frequency = 1.0 / torch::pow(theta_, exponent);
    torch::Tensor angle = torch::arange(context.length, options).unsqueeze(1) * frequency;
    cos_ = angle.cos().to(device, dtype);
    sin_ = angle.sin().to(device, dtype);
  }
  context.cos = cos_.narrow(0, 0, context.length);
  context.sin = sin_.narrow(0, 0, context.length);
}

torch::Tensor document_mask(const std::vector<std::vector<int32_t>>& starts, int64_t batch, int64_t length) {
  torch::Tensor document = torch::zeros({batch, length}, torch::kInt);
  for (size_t row = 0; row < starts.size(); ++row)
    for (int32_t start : starts[row]) document[static_cast<int64_t>(row)].narrow(0, start, length - start) += 1;
  torch::Tensor same = document.unsqueeze(2) == document.unsqueeze(1);
  return same.tril_().unsqueeze(1);
}

}  // namespace engram
