// A run that started from an imported model, and gave it no memory (LoRA, or all weights), was refused: "another model:
// model.engram.pad_token_id: 0, was 2". A study whose base recipe describes a memory could not leave it out either.
//
// Right: what a recipe says of a memory that neither model has is no difference.
#include <fstream>

#include "engram/train/trainer.h"
#include "tests/regress/train/tiny_recipe.h"

namespace engram {
namespace {

class BaseWithoutMemory : public TinyRecipe {};

TEST_F(BaseWithoutMemory, IsTheSameModel) {
  Env& env = Env::posix();
  const std::string none = "model.memory=none";
  value_or_throw(train(env, recipe("base", {none}), {}));
  const std::string path = output("base") + "/latest/config.json";
  const std::string config = value_or_throw(env.read_file(path));
  const std::string key = "\"pad_token_id\": ";
  const size_t at = config.find(key);
  ASSERT_NE(at, std::string::npos);
  std::ofstream(path) << config.substr(0, at) + key + "1" + config.substr(at + key.size());  // another than a recipe's

  const std::string from = "train.start_from=" + output("base");
  const auto lora = train(
      env, recipe("lora", {none, from, "lora.rank=2", "lora.targets=[\"o_proj\"]", "train.freeze=[\"backbone\"]"}), {});
  EXPECT_TRUE(lora.ok()) << lora.status().message();
  const auto other =
      train(env, recipe("other", {from, "model.memory=over_encoding", "model.engram.layer_ids=[0]"}), {});
  EXPECT_NE(other.status().message().find("another model: model.memory: \"over_encoding\", was \"none\""),
            std::string::npos)
      << other.status().message();
}

}  // namespace
}  // namespace engram
