// A model of a few thousand parameters on synthetic text, and a folder for its outputs.
#pragma once
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "engram/train/recipe.h"

namespace engram {

inline const char* const kTinyRecipe = R"(
[model]
hidden_size = 16
num_hidden_layers = 2
max_position_embeddings = 16
num_attention_heads = 2
kv_lora_rank = 8
qk_nope_head_dim = 8
qk_rope_head_dim = 4
v_head_dim = 8
intermediate_size = 32
moe_intermediate_size = 8
n_routed_experts = 4
shared_expert_intermediate_size = 8
memory = "engram"
[model.engram]
layer_ids = [1]
n_heads = 2
head_dim = 4
vocab_size = [50, 60]
[data]
sequence_length = 16
batch_size = 2
[data.synthetic]
documents = 16
[train]
steps = 3
log_every = 2
)";

class TinyRecipe : public testing::Test {
 protected:
  void SetUp() override {
    at::set_num_threads(1);
    folder_ =
        std::filesystem::temp_directory_path() /
        fmt::format("engram_regress_{}_{}", testing::UnitTest::GetInstance()->current_test_info()->name(), ::getpid());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string output(const std::string& name) const { return (folder_ / name).string(); }
  Recipe recipe(const std::string& name, std::vector<std::string> overrides = {}) const {
    overrides.push_back("train.output=" + output(name));
    return value_or_throw(Recipe::parse(kTinyRecipe, "tiny.toml", overrides));
  }

  std::filesystem::path folder_;
};

}  // namespace engram
