// Causal self-attention: multi-head latent attention (MLA, DeepSeek-V2/V3) and grouped-query attention (GQA).
//
// Both map rows to rows, [N, d] -> [N, d] with N = B*T, and keep no state: decoding recomputes the prefix.
//   MLA  c_kv = norm(W_DKV x) of kv_lora_rank columns gives keys and values of all heads through one up-projection;
//        position lives in qk_rope_head_dim extra columns, rotated, whose key part is shared by the heads.
//   GQA  plain heads of head_dim columns, rotated whole; num_key_value_heads keys and values serve them in groups.
// Oracles: transformers deepseek_v3 and qwen3-style blocks (tests/parity). Projections of the same input are one
// matrix; parameter_groups.h says how it splits. Bad shapes throw c10::Error.
//
// Parameters: mla  q_kv_a_proj [q + kv_lora_rank + rope, d]; q = heads * (nope + rope), or q_lora_rank when that is
//                  not 0, then also q_a_layernorm and q_b_proj; kv_a_layernorm; kv_b_proj; o_proj
//             gqa  qkv_proj [(heads + 2 * kv_heads) * head_dim, d]; o_proj
#pragma once
#include <torch/torch.h>

#include <memory>

#include "engram/model/model_config.h"
#include "engram/model/norm.h"

namespace engram {

// What every block of one forward pass shares.
struct AttentionContext {
  int64_t batch = 0, length = 0;
  torch::Tensor cos, sin;  // [T, r/2], the dtype of the norms
  torch::Tensor mask;      // [B, 1, T, T] bool, true: may look; undefined: plain causal
};

class AttentionImpl : public torch::nn::Module {
 public:
  virtual torch::Tensor forward(const torch::Tensor& x_Nd, const AttentionContext& context) = 0;
};

class MlaAttentionImpl : public AttentionImpl {
 public:
  explicit MlaAttentionImpl(const ModelConfig& config);
  torch::Tensor forward(const torch::Tensor& x_Nd, const AttentionContext& context) override;

 private:
  int64_t heads_, q_lora_rank_, kv_lora_rank_, nope_, rope_, value_, query_columns_;
  Linear q_kv_a_proj_{nullptr}, q_b_proj_{nullptr}, kv_b_proj_{nullptr}, o_proj_{nullptr};
  RmsNorm q_a_layernorm_{nullptr}, kv_a_layernorm_{nullptr};
};

class GqaAttentionImpl : public AttentionImpl {
 public:
  explicit GqaAttentionImpl(const ModelConfig& config);
  torch::Tensor forward(const torch::Tensor& x_Nd, const AttentionContext& context) override;

 private:
  int64_t heads_, kv_heads_, head_dim_;
  Linear qkv_proj_{nullptr}, o_proj_{nullptr};
};

std::shared_ptr<AttentionImpl> make_attention(const ModelConfig& config);
// Columns that the rotary embedding turns: qk_rope_head_dim (mla) or head_dim (gqa).
int64_t rotary_columns(const ModelConfig& config);

// softmax(q k^T * scale + mask) v: q, k [B, T, H, a], v [B, T, H, c] -> [B*T, H*c]. Heads narrower than the widest
// are padded with zeros, because the flash kernels want one width.
torch::Tensor causal_attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v, double scale,
                               const torch::Tensor& mask);

// cos and sin tables, grown on demand. Angles are computed in fp32 whatever the model's dtype, as transformers does.
class RotaryCache {
 public:
  RotaryCache(int64_t columns, double theta) : columns_(columns), theta_(theta) {}
  // Fills context.cos and context.sin for context.length tokens.
  void fill(AttentionContext& context, torch::Device device, torch::Dtype dtype);

 private:
  int64_t columns_;
  double theta_;
  torch::Tensor cos_, sin_;
};

// [B, 1, T, T]: token i sees j <= i of its own document. starts [B] as in ForwardInput.
torch::Tensor document_mask(const std::vector<std::vector<int32_t>>& starts, int64_t batch, int64_t length);

}  // namespace engram
