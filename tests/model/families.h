// Small models of every family that the configuration names, and inputs for them.
#pragma once
#include "engram/model/transformer.h"
#include "tests/model/rules.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <string>
#include <utility>
#include <vector>

namespace engram {

inline ModelConfig small_config() {
  ModelConfig c;
  c.vocab_size = 50;
  c.hidden_size = 16;
  c.num_hidden_layers = 3;
  c.max_position_embeddings = 64;
  c.initializer_range = 0.2;
  c.num_attention_heads = 2;
  c.kv_lora_rank = 12;
  c.qk_nope_head_dim = 6;
  c.qk_rope_head_dim = 4;
  c.v_head_dim = 8;
  c.intermediate_size = 24;
  c.moe_intermediate_size = 8;
  c.n_routed_experts = 6;
  c.shared_expert_intermediate_size = 8;
  return c;
}

inline ModelConfig with_engram(ModelConfig c) {
  c.memory = MemoryKind::kEngram;
  c.engram.layer_ids = {0, 2};
  c.engram.n_heads = 2;
  c.engram.head_dim = 4;
  c.engram.vocab_size = {31, 41};
  c.engram.compressed_vocab_size = 50;
  return c;
}

inline ModelConfig with_streams(ModelConfig c, int streams) {
  c.residual = ResidualKind::kHyper;
  c.hc_mult = streams;
  return c;
}

inline ModelConfig with_over_encoding(ModelConfig c) {
  c = with_engram(c);
  c.memory = MemoryKind::kOverEncoding;
  c.engram.layer_ids = {0};
  return c;
}

inline ModelConfig with_gqa(ModelConfig c) {
  c.attention = AttentionKind::kGqa;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 8;
  return c;
}

// Every family the configuration space names, small.
inline std::vector<std::pair<std::string, ModelConfig>> families() {
  ModelConfig dense = with_gqa(small_config());
  dense.ffn = FfnKind::kDense;
  dense.tie_word_embeddings = true;
  ModelConfig lora = with_engram(small_config());
  lora.q_lora_rank = 10;
  lora.engram_proj_bias = true;
  ModelConfig fused_once = with_streams(with_engram(small_config()), 2);
  fused_once.engram_branch_gates = false;
  return {{"moe", small_config()},
          {"dense gqa tied", dense},
          {"engram", with_engram(small_config())},
          {"engram q_lora bias", lora},
          {"engram hyper", with_streams(with_engram(small_config()), 4)},
          {"engram hyper, one gate", fused_once},
          {"hyper", with_streams(small_config(), 2)},
          {"over_encoding", with_over_encoding(small_config())},
          {"qwen4exp hyper", with_rule(with_streams(with_engram(small_config()), 4), HashRule::kQwen4Exp)},
          {"longcat", with_rule(with_engram(small_config()), HashRule::kLongcat)},
          {"longcat, word whole", with_rule(with_engram(small_config()), HashRule::kLongcat, false)}};
}

// Random rows: what a table would have given.
inline std::vector<MemoryRows> random_rows(const ModelConfig& c, int64_t batch, int64_t length) {
  std::vector<MemoryRows> layers;
  for (int i = 0; i < c.num_memory_layers(); ++i) {
    MemoryRows rows;
    rows.unique_rows = torch::randn({40, c.engram.head_dim}).requires_grad_();
    rows.index = torch::randint(40, {batch, length, c.rows_per_token()}, torch::kLong);
    layers.push_back(rows);
  }
  return layers;
}

inline ForwardInput random_input(const ModelConfig& c, int64_t batch, int64_t length) {
  ForwardInput input;
  input.tokens = torch::randint(c.vocab_size, {batch, length}, torch::kLong);
  input.memory = random_rows(c, batch, length);
  return input;
}

// Moves every parameter off its start, so that zero-initialised parts (conv, fn) take part.
inline void perturb(Transformer& model, double size = 0.1) {
  torch::NoGradGuard no_grad;
  for (auto& p : model->parameters()) p += torch::randn_like(p) * size;
}

inline Transformer make_model(const ModelConfig& c, uint64_t seed = 7) {
  torch::manual_seed(seed);
  Transformer model(c);
  perturb(model);
  return model;
}

inline torch::Tensor shifted_targets(const torch::Tensor& tokens) {
  torch::Tensor targets = torch::full_like(tokens, -1);
  targets.narrow(1, 0, tokens.size(1) - 1).copy_(tokens.narrow(1, 1, tokens.size(1) - 1));
  return targets;
}

}  // namespace engram
