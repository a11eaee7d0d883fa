#include "engram/model/layers/attention.h"

#include <algorithm>
#include <cmath>

#include "engram/model/ops/ops.h"
#include "engram/model/paged/paged_ops.h"

namespace engram {
namespace {

// The two latent norms keep their own eps in DeepSeek's code, whatever rms_norm_eps is.
constexpr double kLatentNormEps = 1e-6;

// x [N, h, r] turned to each token's position.
torch::Tensor rotate(const torch::Tensor& x_Nhr, const StepContext& context, bool interleaved) {
  return apply_rope(x_Nhr.unsqueeze(0), context.cos, context.sin, interleaved).squeeze(0);
}

double score_scale(const StepContext& context, const AttentionHeads& heads) {
  return context.score_factor / std::sqrt(static_cast<double>(heads.nope + heads.rope));
}

void write_rows(torch::Tensor& cache, const PagedStep& step, const torch::Tensor& rows) {
  if (cache.is_cpu() && cache.scalar_type() == torch::kFloat && rows.scalar_type() == torch::kFloat) {
    const int64_t* slots = step.slots().const_data_ptr<int64_t>();
    for (int64_t i = 0; i < rows.size(0); ++i) {
      std::copy_n(rows.const_data_ptr<float>() + i * rows.stride(0), rows.size(1),
                  cache.mutable_data_ptr<float>() + slots[i] * cache.size(1));
    }
    return;
  }
  cache.index_copy_(0, step.slots(), rows.to(cache.scalar_type()));
}

}  // namespace

MlaAttentionImpl::MlaAttentionImpl(const ModelConfig& c)
    : heads_{.heads = c.num_attention_heads,
             .kv_heads = c.num_attention_heads,
             .nope = c.qk_nope_head_dim,
             .rope = c.qk_rope_head_dim,
             .value = c.v_head_dim,
             .interleaved = true,
             .shared_rope_key = true},
      q_lora_rank_(c.q_lora_rank),
      kv_lora_rank_(c.kv_lora_rank),
      query_columns_(heads_.heads * (heads_.nope + heads_.rope)) {
  const double std = c.initializer_range;
  const int64_t first = q_lora_rank_ > 0 ? q_lora_rank_ : query_columns_;
  q_kv_a_proj_ = register_module("q_kv_a_proj", Linear(c.hidden_size, first + kv_lora_rank_ + heads_.rope, std));
  if (q_lora_rank_ > 0) {
    q_a_layernorm_ = register_module("q_a_layernorm", RmsNorm(q_lora_rank_, kLatentNormEps));
    q_b_proj_ = register_module("q_b_proj", Linear(q_lora_rank_, query_columns_, std));
  }
  kv_a_layernorm_ = register_module("kv_a_layernorm", RmsNorm(kv_lora_rank_, kLatentNormEps));
  kv_b_proj_ = register_module("kv_b_proj", Linear(kv_lora_rank_, heads_.heads * (heads_.nope + heads_.value), std));
  o_proj_ = register_module("o_proj", Linear(heads_.heads * heads_.value, c.hidden_size, std));
}

torch::Tensor MlaAttentionImpl::forward(const torch::Tensor& x_Nd, const AttentionContext& context) {
  // split, not slices: its backward is one concatenation.
  const int64_t first = q_lora_rank_ > 0 ? q_lora_rank_ : query_columns_;
  auto down = q_kv_a_proj_(x_Nd).split_with_sizes({first, kv_lora_rank_, heads_.rope}, -1);
  torch::Tensor query = q_lora_rank_ > 0 ? q_b_proj_(q_a_layernorm_(down[0])) : down[0];
  torch::Tensor key_value = kv_b_proj_(kv_a_layernorm_(down[1]));
  return o_proj_(attend(query, key_value, down[2], context, heads_));
}

torch::Tensor MlaAttentionImpl::step(const torch::Tensor& x_Nd, const StepContext& context, torch::Tensor& cache) {
  const int64_t n = x_Nd.size(0), first = q_lora_rank_ > 0 ? q_lora_rank_ : query_columns_;
  auto down = q_kv_a_proj_(x_Nd).split_with_sizes({first, kv_lora_rank_, heads_.rope}, -1);
  torch::Tensor query = q_lora_rank_ > 0 ? q_b_proj_(q_a_layernorm_(down[0])) : down[0];
  auto q = query.view({n, heads_.heads, -1}).split_with_sizes({heads_.nope, heads_.rope}, -1);
  torch::Tensor key_rope = rotate(down[2].view({n, 1, heads_.rope}), context, heads_.interleaved);
  write_rows(cache, context.step, at::cat({kv_a_layernorm_(down[1]), key_rope.view({n, heads_.rope})}, 1));

  // <q, W_UK c> = <W_UK^T q, c> and W_UV sum(p c) = sum(p W_UV c): per head, the latent is key and value.
  auto up = kv_b_proj_->weight.view({heads_.heads, heads_.nope + heads_.value, kv_lora_rank_})
                .split_with_sizes({heads_.nope, heads_.value}, 1);
  torch::Tensor absorbed = at::bmm(q[0].transpose(0, 1), up[0]).transpose(0, 1);
  torch::Tensor rotated = rotate(q[1].contiguous(), context, heads_.interleaved);
  PagedHeads paged;
  paged.heads = heads_.heads;
  paged.key_width = kv_lora_rank_ + heads_.rope;
  paged.value_width = kv_lora_rank_;
  paged.scale = score_scale(context, heads_);
  torch::Tensor mixed = attend_paged(at::cat({absorbed, rotated}, 2).view({n, -1}), cache, context.step, paged);
  torch::Tensor value = at::bmm(mixed.view({n, heads_.heads, -1}).transpose(0, 1), up[1].transpose(1, 2));
  return o_proj_(value.transpose(0, 1).reshape({n, -1}));
}

GqaAttentionImpl::GqaAttentionImpl(const ModelConfig& c)
    : heads_{.heads = c.num_attention_heads,
             .kv_heads = c.num_key_value_heads,
             .nope = 0,
             .rope = c.head_dim,
             .value = c.head_dim,
             .interleaved = false,
             .shared_rope_key = false} {
  const int64_t columns = (heads_.heads + 2 * heads_.kv_heads) * heads_.rope;
  qkv_proj_ = register_module("qkv_proj", Linear(c.hidden_size, columns, c.initializer_range, c.qkv_bias));
  if (c.qk_norm) {
    q_norm_ = register_module("q_norm", RmsNorm(heads_.rope, c.rms_norm_eps));
    k_norm_ = register_module("k_norm", RmsNorm(heads_.rope, c.rms_norm_eps));
  }
  o_proj_ = register_module("o_proj", Linear(heads_.heads * heads_.value, c.hidden_size, c.initializer_range));
}

torch::Tensor GqaAttentionImpl::forward(const torch::Tensor& x_Nd, const AttentionContext& context) {
  const int64_t query = heads_.heads * heads_.rope, key = heads_.kv_heads * heads_.rope;
  auto parts = qkv_proj_(x_Nd).split_with_sizes({query, key, key}, -1);
  if (q_norm_) {
    const int64_t n = x_Nd.size(0);
    parts[0] = q_norm_(parts[0].reshape({n, -1, heads_.rope})).view({n, -1});
    parts[1] = k_norm_(parts[1].reshape({n, -1, heads_.rope})).view({n, -1});
  }
  return o_proj_(attend(parts[0], /*key_value=*/parts[2], /*key_rope=*/parts[1], context, heads_));
}

torch::Tensor GqaAttentionImpl::step(const torch::Tensor& x_Nd, const StepContext& context, torch::Tensor& cache) {
  const int64_t n = x_Nd.size(0), width = heads_.rope, key = heads_.kv_heads * width;
  // Queries and keys stand side by side, and one rotation turns both. Keys and values stand as in the cache.
  const int64_t query = heads_.heads * width;
  const torch::Tensor qkv = qkv_proj_(x_Nd);
  torch::Tensor by_head = qkv.view({n, -1, width});
  if (q_norm_) {
    torch::Tensor queries = by_head.narrow(1, 0, heads_.heads), keys = by_head.narrow(1, heads_.heads, heads_.kv_heads);
    queries.copy_(q_norm_(queries.contiguous()));
    keys.copy_(k_norm_(keys.contiguous()));
  }
  turn_heads(by_head, heads_.heads + heads_.kv_heads, context.cos, context.sin, heads_.interleaved);
  write_rows(cache, context.step, qkv.narrow(1, query, 2 * key));
  PagedHeads paged;
  paged.heads = heads_.heads;
  paged.kv_heads = heads_.kv_heads;
  paged.key_width = paged.value_width = width;
  paged.value_at = key;
  paged.scale = score_scale(context, heads_);
  return o_proj_(attend_paged(qkv.narrow(1, 0, query), cache, context.step, paged));
}

std::shared_ptr<AttentionImpl> make_attention(const ModelConfig& config) {
  if (config.attention == AttentionKind::kMla) return std::make_shared<MlaAttentionImpl>(config);
  return std::make_shared<GqaAttentionImpl>(config);
}

int64_t rotary_columns(const ModelConfig& config) {
  return config.attention == AttentionKind::kMla ? config.qk_rope_head_dim : config.head_dim;
}

RotaryCache::RotaryCache(int64_t columns, double theta, const RopeScaling& scaling, int64_t max_position_embeddings) {
  const c10::InferenceMode ordinary(false);
  const auto options = torch::TensorOptions().dtype(torch::kFloat);
  torch::Tensor exponent = torch::arange(0, columns, 2, options) / static_cast<double>(columns);
  frequency_ = 1.0 / torch::pow(theta, exponent);
  if (scaling.factor == 1.0) return;
  const double before = scaling.original_max_position_embeddings > 0
                            ? scaling.original_max_position_embeddings
                            : static_cast<double>(max_position_embeddings) / scaling.factor;
  switch (scaling.type) {
    case RopeType::kYarn: stretch_as_yarn(columns, theta, scaling, before); break;
    case RopeType::kLlama3: stretch_as_llama3(scaling, before); break;
    case RopeType::kLinear: frequency_ = frequency_ / scaling.factor; break;
  }
}

// transformers' arithmetic, step by step: angles at far positions show the last bit of a frequency.
void RotaryCache::stretch_as_llama3(const RopeScaling& scaling, double before) {
  constexpr double kPi = 3.14159265358979323846;
  const torch::Tensor length = 2 * kPi / frequency_;  // tokens of a turn
  const double longest = before / scaling.low_freq_factor, shortest = before / scaling.high_freq_factor;
  const torch::Tensor stretched = torch::where(length > longest, frequency_ / scaling.factor, frequency_);
  const torch::Tensor kept =
      (before / length - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
  const torch::Tensor blended = (1 - kept) * stretched / scaling.factor + kept * stretched;
  frequency_ = torch::where(length.ge(shortest) & length.le(longest), blended, stretched);
}

void RotaryCache::stretch_as_yarn(int64_t columns, double theta, const RopeScaling& scaling, double before) {
  // The column that makes `turns` turns over the length before; columns are numbered by pair.
  auto column_of = [&](double turns) {
    constexpr double kPi = 3.14159265358979323846;
    return static_cast<double>(columns) * std::log(before / (turns * 2 * kPi)) / (2 * std::log(theta));
  };
  const double low = std::max(std::floor(column_of(scaling.beta_fast)), 0.0);
  double high = std::min(std::ceil(column_of(scaling.beta_slow)), static_cast<double>(columns - 1));
  if (high == low) high += 0.001;
  torch::Tensor stretched = ((torch::arange(columns / 2, frequency_.options()) - low) / (high - low)).clamp(0, 1);
  frequency_ = frequency_ / scaling.factor * stretched + frequency_ * (1 - stretched);
  auto sharpness = [&](double mscale) { return 0.1 * mscale * std::log(scaling.factor) + 1.0; };
  amplitude_ = sharpness(scaling.mscale) / sharpness(scaling.mscale_all_dim);
  score_factor_ = sharpness(scaling.mscale_all_dim) * sharpness(scaling.mscale_all_dim);
}

RotaryCache::Tables RotaryCache::tables(int64_t length, torch::Device device, torch::Dtype dtype) const {
  const std::lock_guard lock(mutex_);
  const torch::Tensor& cos = tables_.cos;
  if (cos.defined() && cos.size(0) >= length && cos.device() == device && cos.scalar_type() == dtype) return tables_;
  // Kept for later passes: a tensor made in inference mode could not serve a backward pass.
  const c10::InferenceMode ordinary(false);
  torch::Tensor angle = torch::arange(length, frequency_.options()).unsqueeze(1) * frequency_;
  tables_ = {(angle.cos() * amplitude_).to(device, dtype), (angle.sin() * amplitude_).to(device, dtype)};
  return tables_;
}

StepContext RotaryCache::at(const PagedStep& step, int64_t length, torch::Device device, torch::Dtype dtype) const {
  const auto [cos, sin] = tables(length, device, dtype);
  return {step, cos.index_select(0, step.positions()), sin.index_select(0, step.positions()), score_factor_};
}

void RotaryCache::fill(AttentionContext& context, torch::Device device, torch::Dtype dtype) const {
  const auto [cos, sin] = tables(context.length, device, dtype);
  context.cos = cos.narrow(0, 0, context.length);
  context.sin = sin.narrow(0, 0, context.length);
  context.score_factor = score_factor_;
}

torch::Tensor document_first_keys(const std::vector<std::vector<int32_t>>& starts, int64_t batch, int64_t length) {
  torch::Tensor first = torch::zeros({batch, length}, torch::kInt);
  for (size_t row = 0; row < starts.size(); ++row)
    for (int32_t start : starts[row]) first[static_cast<int64_t>(row)].narrow(0, start, length - start).fill_(start);
  return first;
}

}  // namespace engram
