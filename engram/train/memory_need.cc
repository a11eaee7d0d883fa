#include "engram/train/memory_need.h"

#include <algorithm>

#include "engram/core/checked_math.h"

namespace engram {
namespace {

constexpr int64_t kFloat = sizeof(float);

int64_t bytes_of_batch(const RunInputs& inputs) {
  int64_t token_bytes = 2 * sizeof(int32_t);  // the token and its target
  token_bytes += inputs.hasher.num_layers() * inputs.hasher.rows_per_token() * static_cast<int64_t>(sizeof(int64_t));
  return saturating_product({inputs.recipe.data.batch_size, inputs.recipe.data.sequence_length, token_bytes});
}

int64_t bytes_of_tables(const RunInputs& inputs) {
  const int64_t row_dim = inputs.recipe.model.engram.head_dim;
  const OptimizerRecipe& optimizer = inputs.recipe.optimizer;
  int64_t element = inputs.recipe.train.table_dtype == TrainDtype::kBf16 ? kFloat / 2 : kFloat;  // the row's numbers
  if (optimizer.table_momentum == TableMomentum::kFp32) element += kFloat;
  if (optimizer.table_momentum == TableMomentum::kBf16) element += kFloat / 2;
  const int64_t moment = optimizer.table_state == TableStateKind::kRow ? 1 : row_dim;
  const int64_t row_bytes =
      saturating_sum({saturating_product({row_dim, element}), saturating_product({moment, kFloat}),
                      static_cast<int64_t>(sizeof(uint32_t))});  // the last: the step counter
  int64_t rows = 0;
  for (const NgramHasher& layer : inputs.hasher.layers()) rows = saturating_sum({rows, layer.num_rows()});
  return saturating_product({rows, row_bytes});
}

// Only a frozen backbone is taken into account.
int64_t trained_at_most(const Recipe& recipe) {
  if (std::ranges::count(recipe.train.freeze, ParameterRole::kBackbone) == 0) return INT64_MAX;
  ModelConfig bare = recipe.model;
  bare.memory = MemoryKind::kNone;
  const Result<ParameterCount> all = count_parameters(recipe.model), without = count_parameters(bare);
  return all.ok() && without.ok() ? all->p_tot - all->table - without->p_tot : INT64_MAX;
}

std::string gib(int64_t bytes) { return fmt::format("{:.2f} GiB", static_cast<double>(bytes) / (1 << 30)); }

}  // namespace

int64_t MemoryNeed::total() const { return saturating_sum({weights, tables, batches, activations}); }

MemoryNeed memory_need(const RunInputs& inputs, int64_t batches_ahead, int ranks) {
  const Recipe& recipe = inputs.recipe;
  MemoryNeed need;
  need.batches = saturating_product({bytes_of_batch(inputs), recipe.train.accumulation / ranks + batches_ahead});
  if (recipe.train.table_placement == TablePlacement::kHost) need.tables = bytes_of_tables(inputs) / ranks;
  if (recipe.train.device != "cpu") return need;
  const ParameterCount& count = inputs.parameters;
  const int64_t sharded = recipe.train.shard_experts ? count.routed : 0;
  const int64_t dense = saturating_sum({count.p_tot - count.table - sharded, count.vocabulary});
  const int64_t trained = std::min(dense, trained_at_most(recipe));
  // A weight, and where it is trained a gradient, and one moment at least at its owner.
  need.weights = saturating_product({saturating_sum({dense, trained}), kFloat});
  need.weights = saturating_sum(
      {need.weights, saturating_product({trained, kFloat}) / ranks, saturating_product({sharded, 3, kFloat}) / ranks});
  need.activations = saturating_product({recipe.data.batch_size, recipe.data.sequence_length, recipe.model.hidden_size,
                                         recipe.model.num_hidden_layers, kFloat});
  return need;
}

Status check_memory(const MemoryNeed& need, int64_t available) {
  if (need.total() <= available) return Status();
  return make_status(StatusCode::kResourceExhausted,
                     "not enough memory: the run needs at least {} (weights and their optimizer {}, tables {}, "
                     "batches {}, activations {}), {} are available; make the model, data.batch_size or "
                     "data.sequence_length smaller",
                     gib(need.total()), gib(need.weights), gib(need.tables), gib(need.batches), gib(need.activations),
                     gib(available));
}

}  // namespace engram
