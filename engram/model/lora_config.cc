#include "engram/model/lora_config.h"

#include <algorithm>

#include "engram/core/json.h"

namespace engram {

Status LoraConfig::validate(const ModelConfig& model) const {
  std::vector<std::string> known = {"q_proj", "k_proj", "v_proj", "o_proj"};
  if (model.attention == AttentionKind::kMla) known = {"q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"};
  if (model.attention == AttentionKind::kMla && model.q_lora_rank > 0) {
    known[0] = "q_a_proj";
    known.push_back("q_b_proj");
  }
  if (model.ffn == FfnKind::kDense || model.first_k_dense_replace > 0 || model.shared_expert_intermediate_size > 0)
    known.insert(known.end(), {"gate_proj", "up_proj", "down_proj"});
  if (!model.tie_word_embeddings) known.push_back("lm_head");
  for (const std::string& target : targets) {
    if (std::ranges::count(known, target) == 0)
      return invalid_argument("lora.targets: got {}, wanted some of {}", quote_text(target), fmt::join(known, ", "));
  }
  if (rank > 0 && targets.empty())
    return invalid_argument("lora.targets: got none, wanted some of {}", fmt::join(known, ", "));
  return {};
}

}  // namespace engram
