// A recipe that no machine holds (batch 2^20 x length 2^20 are within its ranges) was allocated until the process died;
// validation_batches x batch_size x length wrapped.
//
// Right: one error with need and have, before anything is allocated.
#include <filesystem>

#include <gtest/gtest.h>

#include "engram/train/memory_need.h"
#include "engram/train/trainer.h"
#include "tests/regress/train/tiny_recipe.h"

namespace engram {
namespace {

class RecipeBeyondMemory : public TinyRecipe {};

TEST_F(RecipeBeyondMemory, IsRefusedWithNeedAndHave) {
  const Recipe huge = recipe(
      "huge", {"data.batch_size=1048576", "data.sequence_length=1048576", "model.max_position_embeddings=1048576"});
  const Status status = train(Env::posix(), huge, {}).status();
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << status.message();
  EXPECT_NE(status.message().find("the run needs at least"), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("are available"), std::string::npos) << status.message();
  EXPECT_FALSE(Env::posix().file_exists(output("huge") + "/latest"));
}

TEST_F(RecipeBeyondMemory, EachPartCounts) {
  RunInputs inputs = value_or_throw(open_run_inputs(Env::posix(), recipe("a"), output("a") + "/data"));
  const MemoryNeed need = memory_need(inputs, 4);
  const ParameterCount& count = inputs.parameters;
  EXPECT_EQ(need.weights, (count.p_tot - count.table + count.vocabulary) * 12);
  const int64_t rows = count.table / inputs.recipe.model.engram.head_dim;
  EXPECT_EQ(need.tables, count.table * 12 + rows * 4);  // and a counter for each row
  EXPECT_EQ(need.batches, 5 * 2 * 16 * (8 + 8 * inputs.hasher.rows_per_token()));
  EXPECT_EQ(need.activations, 2 * 16 * 16 * 2 * 4);
  EXPECT_TRUE(check_memory(need, need.total()).ok());
  EXPECT_EQ(check_memory(need, need.total() - 1).code(), StatusCode::kResourceExhausted);
  inputs.recipe.train.table_dtype = TrainDtype::kBf16;
  inputs.recipe.optimizer.table_momentum = TableMomentum::kBf16;
  EXPECT_EQ(memory_need(inputs, 4).tables, count.table * 8 + rows * 4);
  inputs.recipe.optimizer.table_momentum = TableMomentum::kNone;
  inputs.recipe.optimizer.table_state = TableStateKind::kRow;
  EXPECT_EQ(memory_need(inputs, 4).tables, count.table * 2 + rows * 8);
  inputs.recipe.train.device = "cuda";
  EXPECT_EQ(memory_need(inputs, 4).weights, 0);
  EXPECT_EQ(memory_need(inputs, 4).tables, count.table * 2 + rows * 8);
}

TEST_F(RecipeBeyondMemory, AnyNumberOfValidationBatches) {
  const TrainSummary all = value_or_throw(train(Env::posix(), recipe("all", {"train.validation_batches=0"}), {}));
  const TrainSummary most = value_or_throw(
      train(Env::posix(), recipe("most", {"train.validation_batches=1099511627776", "data.loader_threads=0"}), {}));
  EXPECT_EQ(all.validation_loss, most.validation_loss);
}

}  // namespace
}  // namespace engram
