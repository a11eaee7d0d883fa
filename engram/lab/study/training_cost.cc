#include "engram/lab/study/training_cost.h"

#include <algorithm>
#include <utility>

#include "engram/model/parameters.h"

namespace engram {
namespace {

// Rows and columns of a projection in a block; an absent one has none.
std::pair<double, double> shape_of(const ModelConfig& c, const std::string& target, int block) {
  const double d = c.hidden_size, heads = c.num_attention_heads;
  if (target == "gate_proj" || target == "up_proj" || target == "down_proj")
    return {d, c.is_moe_block(block) ? c.shared_expert_intermediate_size : c.intermediate_size};
  if (c.attention == AttentionKind::kGqa) {
    const bool kv = target == "k_proj" || target == "v_proj";
    return {d, (kv ? c.num_key_value_heads : heads) * c.head_dim};
  }
  const double queries = heads * (c.qk_nope_head_dim + c.qk_rope_head_dim);
  if (target == "q_proj") return {queries, d};
  if (target == "q_a_proj") return {c.q_lora_rank, d};
  if (target == "q_b_proj") return {queries, c.q_lora_rank};
  if (target == "kv_a_proj_with_mqa") return {c.kv_lora_rank + c.qk_rope_head_dim, d};
  if (target == "kv_b_proj") return {heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank};
  return {d, heads * c.v_head_dim};  // o_proj
}

double lora_of_block(const Recipe& recipe, int block) {
  double parameters = 0;
  for (const std::string& target : recipe.lora.targets) {
    const auto [rows, columns] = shape_of(recipe.model, target, block);
    if (target != "lm_head" && rows > 0 && columns > 0)
      parameters += static_cast<double>(recipe.lora.rank) * (rows + columns);
  }
  return parameters;
}

double lora_of_head(const Recipe& recipe) {
  if (std::ranges::count(recipe.lora.targets, "lm_head") == 0) return 0;
  return static_cast<double>(recipe.lora.rank) * (recipe.model.hidden_size + recipe.model.vocab_size);
}

// Multiply-adds of a token with the keys and values of half a window.
double scores_of(const Recipe& recipe) {
  const ModelConfig& c = recipe.model;
  const int width =
      c.attention == AttentionKind::kGqa ? 2 * c.head_dim : c.qk_nope_head_dim + c.qk_rope_head_dim + c.v_head_dim;
  return 0.5 * static_cast<double>(recipe.data.sequence_length) * c.num_attention_heads * width;
}

}  // namespace

TrainingCost count_training_cost(const Recipe& recipe) {
  const ModelConfig& c = recipe.model;
  const auto trained = [&](ParameterRole role) { return !is_frozen(recipe.train, role); };
  const bool lora_trained = recipe.lora.rank > 0 && trained(ParameterRole::kLora);
  TrainingCost cost;
  // An embedding that is trained wants a gradient through all blocks.
  bool below = trained(ParameterRole::kEmbedding);
  double operations = 0, lora = 0;
  for (int block = 0; block < c.num_hidden_layers; ++block) {
    const BlockParameters active = active_parameters(c, block);
    const double low_rank = lora_of_block(recipe, block);
    double own = 0;
    if (trained(ParameterRole::kAttention)) own += static_cast<double>(active.attention);
    if (trained(ParameterRole::kFfn)) own += static_cast<double>(active.ffn);
    if (trained(ParameterRole::kMemory)) own += static_cast<double>(active.memory);
    if (lora_trained) own += low_rank;
    below = below || own > 0 || active.memory > 0 || trained(ParameterRole::kNorm);
    const double products = static_cast<double>(active.attention + active.ffn + active.memory) + low_rank;
    operations += (below ? 4 : 2) * products + (below ? 6 : 2) * scores_of(recipe) + 2 * own;
    lora += low_rank;
  }
  const double head = static_cast<double>(c.vocab_size) * c.hidden_size, head_lora = lora_of_head(recipe);
  const bool head_trained = trained(c.tie_word_embeddings ? ParameterRole::kEmbedding : ParameterRole::kHead);
  operations += 4 * (head + head_lora) + 2 * (head_trained ? head : 0) + 2 * (lora_trained ? head_lora : 0);
  cost.flops_per_token = operations;
  cost.lora = static_cast<int64_t>(lora + head_lora);
  return cost;
}

}  // namespace engram
