// ModelConfig: one configuration space for every published variant and every ablation.
//
//   attention = mla | gqa;  ffn = dense | moe;  residual = plain | hyper;  memory = none | engram | over_encoding
//
// Keys are those of DeepSeek and Hugging Face (config.json), and V4.1's for the memory. The JSON form is the
// checkpoint's config.json; the recipe's [model] table has the same keys. They are flat except for "rope_scaling" and
// "engram", which holds rule (engram | qwen4exp | longcat), the keys that EngramConfig has under it, and those of the
// module. In our own files unknown keys fail. Torch-free, a plain value.
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "engram/core/status.h"
#include "engram/hash/layout.h"

namespace engram {

class Fields;

enum class AttentionKind { kMla, kGqa };
enum class FfnKind { kDense, kMoe };
enum class ResidualKind { kPlain, kHyper };
enum class MemoryKind { kNone, kEngram, kOverEncoding };
enum class RopeType { kYarn, kLlama3, kLinear };

// How rotary columns are stretched for a context that is longer than that of the first training.
//   yarn    (arXiv 2309.00071), as DeepSeek's configurations spell it: columns that turn slowly are stretched by
//           `factor`, fast ones stay, those between are blended; cos and sin are multiplied by the quotient of
//           0.1 mscale ln factor + 1 and 0.1 mscale_all_dim ln factor + 1, scores by the square of the latter
//   llama3  the same idea with other borders: by turns over the length before, low_freq_factor and high_freq_factor
//   linear  all columns by `factor`
struct RopeScaling {
  RopeType type = RopeType::kYarn;
  double factor = 1.0;                       // 1: no scaling
  int original_max_position_embeddings = 0;  // of the first training; 0: max_position_embeddings / factor
  double beta_fast = 32.0;                   // yarn: columns with more turns over that length stay as they are
  double beta_slow = 1.0;                    // yarn: columns with fewer turns are stretched by the whole factor
  double mscale = 0.707;                     // yarn
  double mscale_all_dim = 0.707;             // yarn
  double low_freq_factor = 1.0;              // llama3: columns with fewer turns are stretched by the whole factor
  double high_freq_factor = 4.0;             // llama3: columns with more turns stay as they are
};

struct ModelConfig {
  int vocab_size = 0;                 // raw token ids
  int hidden_size = 64;               // d
  int num_hidden_layers = 4;          // blocks
  int max_position_embeddings = 256;  // longest sequence, tokens
  double rms_norm_eps = 1e-6;
  double initializer_range = 0.02;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  bool tie_word_embeddings = false;
  bool attention_document_mask = false;  // true: attention does not cross document starts

  AttentionKind attention = AttentionKind::kMla;
  int num_attention_heads = 4;
  int num_key_value_heads = 4;  // gqa
  int head_dim = 16;            // gqa: per-head width
  bool qkv_bias = false;        // gqa: biases in the projections of queries, keys and values (Qwen2)
  bool qk_norm = false;         // gqa: an RMSNorm over each head of queries and keys before the rotation (Qwen3)
  int q_lora_rank = 0;          // mla: 0 projects queries directly
  int kv_lora_rank = 32;        // mla: width of the cached latent
  int qk_nope_head_dim = 16;    // mla
  int qk_rope_head_dim = 8;     // mla; shared key part, decoupled RoPE
  int v_head_dim = 16;          // mla

  FfnKind ffn = FfnKind::kMoe;
  int intermediate_size = 128;               // width of a dense FFN (and of the first_k_dense_replace blocks)
  int first_k_dense_replace = 1;             // moe: leading blocks that stay dense
  int moe_intermediate_size = 32;            // width of one routed expert
  int n_routed_experts = 42;                 // E
  int num_experts_per_tok = 2;               // k
  int n_group = 1;                           // consecutive experts form this many groups
  int topk_group = 1;                        // groups that one token may choose from
  int shared_expert_intermediate_size = 32;  // summed width of the shared experts; 0: none
  double routed_scaling_factor = 1.0;
  bool norm_topk_prob = true;

  ResidualKind residual = ResidualKind::kPlain;
  int hc_mult = 1;  // M residual streams; 1 for plain, and hyper with 1 is plain
  int hc_sinkhorn_iters = 20;
  double hc_eps = 1e-6;

  MemoryKind memory = MemoryKind::kNone;
  EngramConfig engram;         // rule, layer_ids, max_ngram_size, n_heads, head_dim, vocab_size, seed, ...
  int engram_kernel_size = 4;  // taps of the depthwise causal convolution; dilation is max_ngram_size
  bool engram_proj_bias = false;
  // Ablations (E9): all true is the paper's module.
  bool engram_branch_gates = true;  // false: one gate and one fusion on the stream after the pre-mapping
  bool engram_compression = true;   // false: hash raw ids
  bool engram_gate = true;          // false: alpha = 1
  bool engram_conv = true;          // false: Y = v
  bool engram_average_word = true;  // longcat: (word + sum) / (1 + R); false: word + sum / (1 + R)

  int rows_per_token() const { return memory == MemoryKind::kNone ? 0 : engram.rows_per_token(); }
  // Where rows join: the embedding (over_encoding, and an engram of the rule longcat), or the blocks of layer_ids.
  bool memory_at_input() const {
    return memory == MemoryKind::kOverEncoding || (memory == MemoryKind::kEngram && engram.rule == HashRule::kLongcat);
  }
  bool memory_in_blocks() const { return memory == MemoryKind::kEngram && !memory_at_input(); }
  // Layers that read a table: engram.layer_ids.size(), 1 at the input, 0 for none.
  int num_memory_layers() const;
  // True when the blocks carry hyper-connections: one stream has nothing to connect.
  bool has_hyper_connections() const { return residual == ResidualKind::kHyper && hc_mult > 1; }
  bool is_moe_block(int block) const { return ffn == FfnKind::kMoe && block >= first_k_dense_replace; }

  // kInvalidArgument names the key, what it got and what it wanted.
  Status validate() const;
  // Every key, in the order above. from_json(to_json()) is the same configuration.
  nlohmann::ordered_json to_json() const;
  // A missing key keeps its value. Unknown keys and wrong types fail with kInvalidArgument, naming the key. Does not
  // validate(): a recipe learns vocab_size and compressed_vocab_size from its tokenizer later.
  Status read(Fields fields);
  static Result<ModelConfig> from_json(const nlohmann::json& json, const std::string& name);  // of the file
};

}  // namespace engram
