#include "engram/train/run_checks.h"

#include <torch/cuda.h>

#include "engram/core/checked_math.h"
#include "engram/core/progress.h"

namespace engram {
namespace {

Status check_device(const TrainRecipe& recipe) {
  if (recipe.device == "cuda" && !torch::cuda::is_available())
    return make_status(StatusCode::kFailedPrecondition,
                       "train.device: got \"cuda\", but no NVIDIA device is usable by this program; wanted \"cpu\"");
  return Status();
}

}  // namespace

Status check_run(const Recipe& recipe, int ranks) {
  ENGRAM_RETURN_IF_ERROR(check_device(recipe.train));
  if (ranks == 1) return {};
  const TrainRecipe& train = recipe.train;
  if (train.accumulation % ranks != 0) {
    const int64_t sequences = recipe.data.batch_size * train.accumulation;
    return invalid_argument("{} ranks cannot share train.accumulation = {}{}", ranks, train.accumulation,
                            sequences % ranks != 0
                                ? std::string()
                                : fmt::format("; the same {} sequences a step: data.batch_size = {} and "
                                              "train.accumulation = {}",
                                              sequences, sequences / ranks, ranks));
  }
  if (train.device != "cpu")
    return make_status(StatusCode::kUnimplemented, "train.device: got \"{}\" for {} ranks, wanted \"cpu\"",
                       train.device, ranks);
  if (train.control != ControlKind::kNone)
    return make_status(StatusCode::kUnimplemented,
                       "train.control: controls of studies run in one process, got {} ranks", ranks);
  return {};
}

std::vector<std::string> describe_schedule(const RunInputs& inputs, const DataLoader& loader) {
  const Recipe& recipe = inputs.recipe;
  const auto sequences = static_cast<double>(saturating_product({recipe.data.batch_size, recipe.train.accumulation}));
  const double step_tokens = sequences * static_cast<double>(recipe.data.sequence_length);
  const auto steps = static_cast<double>(recipe.train.steps);
  std::vector<std::string> lines = {fmt::format("{} steps of {} tokens: {} tokens", recipe.train.steps,
                                                format_count(step_tokens), format_count(steps * step_tokens))};
  const std::vector<DataSource> sources = inputs.sources();
  for (size_t i = 0; i < sources.size(); ++i) {
    const std::string name = recipe.data.sources.empty() ? "data.train" : fmt::format("data.source[{}]", i);
    const double epochs = steps * sequences * sources[i].share / static_cast<double>(loader.windows_per_epoch(i));
    int64_t tokens = 0;
    for (const TokenShard* shard : sources[i].shards) tokens += shard->info().num_tokens;
    lines[0] += fmt::format(", {:.3g} epochs of the {} in {}", epochs, format_count(static_cast<double>(tokens)), name);
    if (epochs > 2)
      lines.push_back(
          fmt::format("warning: {} is read {:.3g} times; what is read more than twice tends to be learned "
                      "by heart",
                      name, epochs));
  }
  return lines;
}

}  // namespace engram
