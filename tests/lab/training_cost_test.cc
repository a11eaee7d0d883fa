// What a training step costs, against modules and against numbers by hand.
#include "engram/lab/study/training_cost.h"

#include <gtest/gtest.h>

#include "engram/model/io/lora.h"
#include "engram/model/io/parameter_groups.h"
#include "engram/model/parameters.h"

namespace engram {
namespace {

Recipe small(AttentionKind attention, FfnKind ffn) {
  Recipe recipe;
  recipe.model.vocab_size = 96;
  recipe.model.attention = attention;
  recipe.model.num_key_value_heads = 2;
  recipe.model.ffn = ffn;
  recipe.data.sequence_length = 32;
  return recipe;
}

TEST(TrainingCost, LowRankChangesAreCountedAsTheyAreMade) {
  for (const AttentionKind attention : {AttentionKind::kGqa, AttentionKind::kMla})
    for (const FfnKind ffn : {FfnKind::kDense, FfnKind::kMoe}) {
      Recipe recipe = small(attention, ffn);
      recipe.lora.rank = 3;
      recipe.lora.targets = {"q_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"};
      if (attention == AttentionKind::kGqa)
        recipe.lora.targets.insert(recipe.lora.targets.end(), {"k_proj", "v_proj"});
      else
        recipe.lora.targets.insert(recipe.lora.targets.end(), {"kv_a_proj_with_mqa", "kv_b_proj"});
      ASSERT_TRUE(recipe.lora.validate(recipe.model).ok());
      Transformer model(recipe.model);
      add_lora(*model, recipe.lora);
      int64_t made = 0;
      for (const ParameterInfo& info : parameter_groups(*model))
        if (info.role == ParameterRole::kLora) made += info.tensor.numel();
      EXPECT_EQ(count_training_cost(recipe).lora, made);
    }
}

TEST(TrainingCost, ByHand) {
  Recipe recipe = small(AttentionKind::kGqa, FfnKind::kDense);
  recipe.model.tie_word_embeddings = true;
  const double attention = 64 * 16 * (4 + 2 + 2 + 4), ffn = 3 * 64 * 128, head = 96 * 64, scores = 16 * 4 * 32;
  const auto cost = [&] { return count_training_cost(recipe).flops_per_token; };
  // Everything is trained: three products for each weight.
  EXPECT_DOUBLE_EQ(cost(), 6 * (4 * (attention + ffn + scores) + head));

  // A memory in block 2 of a frozen model: blocks 0 and 1 go forward only, 2 and 3 back to their inputs.
  recipe.train.freeze = {ParameterRole::kBackbone};
  recipe.model.memory = MemoryKind::kEngram;
  recipe.model.engram.layer_ids = {2};
  const auto memory = static_cast<double>(active_parameters(recipe.model, 2).memory);
  EXPECT_GT(memory, 2 * 64 * recipe.model.engram.memory_dim());
  EXPECT_EQ(active_parameters(recipe.model, 1).memory, 0);
  EXPECT_DOUBLE_EQ(
      cost(), 2 * 2 * (attention + ffn + scores) + 2 * (4 * (attention + ffn) + 6 * scores) + 6 * memory + 4 * head);

  // Low-rank changes reach block 0.
  recipe.model.memory = MemoryKind::kNone;
  recipe.lora.rank = 2;
  recipe.lora.targets = {"o_proj"};
  EXPECT_DOUBLE_EQ(cost(), 4 * (4 * (attention + ffn) + 6 * scores + 6 * 2 * (64 + 64)) + 4 * head);
}

TEST(TrainingCost, AMixtureCountsTheExpertsOfAToken) {
  const Recipe recipe = small(AttentionKind::kMla, FfnKind::kMoe);
  const BlockParameters dense = active_parameters(recipe.model, 0), mixture = active_parameters(recipe.model, 1);
  EXPECT_EQ(dense.ffn, 3 * 64 * 128);
  EXPECT_EQ(mixture.ffn, 64 * 42 + 3 * 64 * (2 * 32 + 32));
  ModelConfig all = recipe.model;
  const ParameterCount count = value_or_throw(count_parameters(all));
  EXPECT_EQ(count.p_act, 4 * dense.attention + dense.ffn + 3 * mixture.ffn + 64 + 4 * 2 * 64);  // and norms
}

}  // namespace
}  // namespace engram
