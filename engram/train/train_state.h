// Train state: what a checkpoint holds beyond the model, and how a run continues from it bit for bit.
//
//   optimizer.safetensors  momentum and moments by parameter name, table states, torch's random state
//   state.json             step, data position, table layout
//   recipe.toml            the resolved recipe (train/recipe.h)
// Names and keys: docs/formats/train_state.md. No time stamp, path or host name: equal runs give equal bytes.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"
#include "engram/train/learning_table.h"
#include "engram/train/optimizer.h"

namespace engram {

struct TrainPosition {
  int64_t step = 0;        // completed
  int64_t next_batch = 0;  // global number of the loader's next batch
  int64_t tokens = 0;      // target tokens trained on so far
  // What the position counts in; another corpus under the same names is refused.
  std::string vocabulary_digest;
  int64_t train_tokens = 0;  // in all training shards
};

// Every tensor of optimizer.safetensors, in file order: the optimizer's, then the tables' ("table.0.exp_avg").
std::vector<StreamedTensor> train_state_tensors(Optimizer& optimizer, const std::vector<LearningTable*>& tables);

// These two are for rank 0; the other ranks follow (model/io/streamed_tensor.h).
Status save_train_state(Env& env, const std::string& directory, const std::vector<StreamedTensor>& tensors,
                        const std::vector<LearningTable*>& tables, const TrainPosition& position,
                        const std::string& recipe_toml);

// Reads and checks state.json. kDataLoss, kInvalidArgument; kFailedPrecondition: digest or token count of `wanted`
// differ (another tokenizer or other shards).
Result<TrainPosition> load_position(Env& env, const std::string& directory, const TrainPosition& wanted);
// Fills `tensors` from optimizer.safetensors and restores the random state. Names, shapes and dtypes must be exactly
// those; on an error no tensor has changed.
Status load_train_state(Env& env, const std::string& directory, const std::vector<StreamedTensor>& tensors);

}  // namespace engram
