// Causal self-attention: multi-head latent attention (MLA, DeepSeek-V2/V3) and grouped-query attention (GQA).
//
// Both map rows to rows, [N, d] -> [N, d], in two ways: forward() over whole sequences, N = B*T, without any state; and
// step() over the new tokens of a batch of sequences whose older ones lie in a paged cache. There MLA absorbs the
// up-projections of keys and values into query and output, so that only the latent is cached.
//   MLA  c_kv = norm(W_DKV x) of kv_lora_rank columns gives keys and values of all heads through one up-projection;
//        position lives in qk_rope_head_dim extra columns, rotated, whose key part is shared by the heads.
//   GQA  plain heads of head_dim columns, rotated whole; num_key_value_heads keys and values serve them in groups.
// Oracles: transformers deepseek_v3 (YaRN too) and qwen3-style blocks (tests/parity). Projections of the same input are
// one matrix; parameter_groups.h says how it splits. Bad shapes throw c10::Error.
//
// Parameters: mla  q_kv_a_proj [q + kv_lora_rank + rope, d]; q = heads * (nope + rope), or q_lora_rank when that is
//                  not 0, then also q_a_layernorm and q_b_proj; kv_a_layernorm; kv_b_proj; o_proj
//             gqa  qkv_proj [(heads + 2 * kv_heads) * head_dim, d], with qkv_bias also its bias; with qk_norm q_norm
//                  and k_norm [head_dim]; o_proj
#pragma once
#include <torch/nn/module.h>

#include <memory>
#include <mutex>

#include "engram/model/layers/norm.h"
#include "engram/model/model_config.h"
#include "engram/model/paged/paged_cache.h"

namespace engram {

// What every block of one forward pass shares.
struct AttentionContext {
  int64_t batch = 0, length = 0;
  torch::Tensor cos, sin;     // [T, r/2], the dtype of the norms
  torch::Tensor first_key;    // [B, T] int32: the oldest token each one sees; undefined: all before it
  double score_factor = 1.0;  // of the scores, beyond 1/sqrt(nope + rope): YaRN's
};

// The same for the new tokens of a step.
struct StepContext {
  const PagedStep& step;
  torch::Tensor cos, sin;  // [N, r/2], each token's
  double score_factor = 1.0;
};

// The heads of one attention layer. GQA is the case nope = 0 with a rotary key per key-value head.
struct AttentionHeads {
  int64_t heads = 1, kv_heads = 1;
  int64_t nope = 0, rope = 0, value = 0;
  bool interleaved = true;       // pairing of the rotated columns
  bool shared_rope_key = false;  // one rotary key for all heads
};

class AttentionImpl : public torch::nn::Module {
 public:
  virtual torch::Tensor forward(const torch::Tensor& x_Nd, const AttentionContext& context) = 0;
  // Writes the new tokens into `cache` (PagedCache::attention()) and attends to all of their sequences.
  virtual torch::Tensor step(const torch::Tensor& x_Nd, const StepContext& context, torch::Tensor& cache) = 0;
};

class MlaAttentionImpl : public AttentionImpl {
 public:
  explicit MlaAttentionImpl(const ModelConfig& config);
  torch::Tensor forward(const torch::Tensor& x_Nd, const AttentionContext& context) override;
  torch::Tensor step(const torch::Tensor& x_Nd, const StepContext& context, torch::Tensor& cache) override;

 private:
  AttentionHeads heads_;
  int64_t q_lora_rank_, kv_lora_rank_, query_columns_;
  Linear q_kv_a_proj_{nullptr}, q_b_proj_{nullptr}, kv_b_proj_{nullptr}, o_proj_{nullptr};
  RmsNorm q_a_layernorm_{nullptr}, kv_a_layernorm_{nullptr};
};

class GqaAttentionImpl : public AttentionImpl {
 public:
  explicit GqaAttentionImpl(const ModelConfig& config);
  torch::Tensor forward(const torch::Tensor& x_Nd, const AttentionContext& context) override;
  torch::Tensor step(const torch::Tensor& x_Nd, const StepContext& context, torch::Tensor& cache) override;

 private:
  AttentionHeads heads_;
  Linear qkv_proj_{nullptr}, o_proj_{nullptr};
  RmsNorm q_norm_{nullptr}, k_norm_{nullptr};  // null: without
};

std::shared_ptr<AttentionImpl> make_attention(const ModelConfig& config);
// Columns that the rotary embedding turns: qk_rope_head_dim (mla) or head_dim (gqa).
int64_t rotary_columns(const ModelConfig& config);

// Rotates, scores with 1/sqrt(nope + rope), masks causally and sums the values; everything between the projections.
//   query      [N, heads * (nope + rope)]      per head: plain columns, then those to rotate
//   key_value  [N, kv_heads * (nope + value)]  per head: plain key columns, then the value
//   key_rope   [N, rope] or [N, kv_heads * rope]
// Returns [N, heads * value]. On CPU one kernel (engram/kernels/attention.h) in fp32; elsewhere the plain form.
torch::Tensor attend(const torch::Tensor& query, const torch::Tensor& key_value, const torch::Tensor& key_rope,
                     const AttentionContext& context, const AttentionHeads& heads);
torch::Tensor attend_plain(const torch::Tensor& query, const torch::Tensor& key_value, const torch::Tensor& key_rope,
                           const AttentionContext& context, const AttentionHeads& heads);

// cos and sin tables, grown on demand; thread-safe. Angles are computed in fp32 whatever the model's dtype, as
// transformers does.
class RotaryCache {
 public:
  RotaryCache(int64_t columns, double theta) : RotaryCache(columns, theta, {}, 0) {}
  // scaling.original_max_position_embeddings 0: max_position_embeddings / factor.
  RotaryCache(int64_t columns, double theta, const RopeScaling& scaling, int64_t max_position_embeddings);
  // Fills context.cos, context.sin for context.length tokens, and context.score_factor.
  void fill(AttentionContext& context, torch::Device device, torch::Dtype dtype) const;
  // The rows of these positions, all below `length`.
  StepContext at(const PagedStep& step, int64_t length, torch::Device device, torch::Dtype dtype) const;

 private:
  struct Tables {
    torch::Tensor cos, sin;  // [at least the length asked for, columns / 2]
  };
  Tables tables(int64_t length, torch::Device device, torch::Dtype dtype) const;
  // `before`: the length of the first training.
  void stretch_as_yarn(int64_t columns, double theta, const RopeScaling& scaling, double before);
  void stretch_as_llama3(const RopeScaling& scaling, double before);
  torch::Tensor frequency_;                  // [columns / 2] fp32, radians a token
  double amplitude_ = 1, score_factor_ = 1;  // of cos and sin; of the scores
  mutable std::mutex mutex_;                 // guards the tables of late
  mutable Tables tables_;
};

// [B, T] int32: the first token of each token's own document. starts [B] as in ForwardInput.
torch::Tensor document_first_keys(const std::vector<std::vector<int32_t>>& starts, int64_t batch, int64_t length);

}  // namespace engram
