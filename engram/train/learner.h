// Learner: a model, its tables and their optimizers. step() is one training step, from batches to updated weights.
//
// It knows nothing of files, schedules over time or progress: that is trainer.h. Two learners made from the same
// recipe and seed and given the same batches hold the same bits on CPU. Several ranks share a step: each is given its
// part of the micro-batches, and all hold the bits of one that was given all of them, where a part is a power of two.
#pragma once
#include <torch/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engram/core/status.h"
#include "engram/data/data_loader.h"
#include "engram/data/token_shard.h"
#include "engram/dist/communicator.h"
#include "engram/model/decode/evaluate.h"
#include "engram/model/decode/generate.h"
#include "engram/train/learning_table.h"
#include "engram/train/optimizer.h"
#include "engram/train/row_request.h"
#include "engram/train/run_inputs.h"
#include "engram/train/shuffled_table.h"
#include "engram/train/step_clock.h"
#include "engram/train/step_totals.h"

namespace engram {

class TrainableTable;

struct StepResult {
  double loss = 0;                  // nats per target, mean over the micro-batches' means
  double grad_norm = 0;             // before clipping; row gradients included
  int64_t tokens = 0;               // targets: tokens to learn
  int64_t positions = 0;            // of all windows
  int64_t touched_rows = 0;         // distinct table rows, all layers
  int64_t looked_up_rows = 0;       // row ids of the step, all layers
  int64_t asked_rows = 0;           // touched ones, a row that several ranks ask for counted for each
  double busiest_owner = 1;         // touched rows of the rank that keeps the most of them over the mean of ranks
  std::vector<double> expert_load;  // per MoE block: max / mean of the step's tokens per expert
  std::vector<double> gate_mean;    // per Engram layer, of the last micro-batch
  // Only where histograms are wanted: gates of the last micro-batch in bins of equal width over 0 .. 1, one layer after
  // another; and tokens of each expert, one block after another.
  std::vector<int64_t> gate_counts, expert_counts;
  StepSeconds seconds;  // of this rank; `data` is the caller's
  bool stop = false;    // some rank was asked to stop
};

// Not thread-safe: torch's thread pool works inside. Throws c10::Error on what torch refuses.
class Learner {
 public:
  // Initial weights come from torch's global generator, seeded with recipe.train.seed. Takes `inputs`' hashing and
  // tokenizer by copy; recipe must be resolved. `ranks` outlives it.
  Learner(const RunInputs& inputs, Communicator& ranks);
  Learner(const Learner&) = delete;
  Learner& operator=(const Learner&) = delete;

  // `batches`: this rank's part of the recipe.train.accumulation micro-batches; `step` counts from 1; rates are scaled
  // by `multiplier`. The result is that of the whole step, on every rank; `stop` (may be null): this rank was asked to.
  // A loss or gradient norm that is not finite is returned without touching any weight, and the next step may follow.
  // `next`: those of the next step, where it is certain to come and several ranks train: their rows are asked for
  // during this step. Or empty; alike on all ranks.
  StepResult step(std::span<const Batch> batches, int64_t step, double multiplier,
                  const std::atomic<bool>* stop = nullptr, std::span<const Batch> next = {});

  // Whether the next steps count what histograms need. Alike on all ranks; changes no number.
  void want_histograms(bool on) { histograms_ = on; }

  // What the model writes after `prompt`. All ranks call it together.
  Result<std::string> sample(const std::string& prompt, const GenerateOptions& options);
  // Loss of a text in evaluation mode and fp32, under the recipe's control (model/decode/evaluate.h): of one sequence,
  // and of each document alone.
  Result<EvaluateResult> validate(const TokenText& text, const EvaluateOptions& options);
  Result<DocumentsResult> validate_documents(const TokenText& text, const EvaluateOptions& options);

  // Weights that train.freeze leaves as they are. Alike on all ranks.
  const std::vector<torch::Tensor>& frozen() const { return frozen_; }
  const LoadedModel& loaded_model() const { return model_; }
  TransformerImpl& model() { return *model_.model; }
  Optimizer& optimizer() { return *optimizer_; }
  const std::vector<LearningTable*>& tables() const { return tables_; }  // one per memory layer

 private:
  std::vector<ParameterInfo> freeze(std::vector<ParameterInfo> parameters);
  void make_tables(const RunInputs& inputs);
  std::vector<MemoryRows> gather(std::span<const Batch> batches, int64_t step);
  torch::Tensor micro_batch_loss(const Batch& batch, std::vector<MemoryRows> memory, ForwardTrace* trace);
  std::unique_ptr<LearningTable> make_table(int layer, int64_t num_rows);
  std::unique_ptr<RowRequest> request(std::span<const Batch> batches);
  std::vector<torch::Tensor> collect(const std::vector<torch::Tensor>& rows, std::span<const Batch> next,
                                     StepTotals& totals);
  void update(std::vector<torch::Tensor> gradients, double multiplier, const StepTotals& totals, StepResult& result);
  template <typename Evaluate>
  auto evaluate_text(const Evaluate& evaluate, const TokenText& text, const EvaluateOptions& options);
  torch::Tensor to_device(const std::vector<int32_t>& ids, const Batch& batch) const;

  Communicator& ranks_;
  Recipe recipe_;
  bool histograms_ = false;
  torch::Device device_;
  LoadedModel model_;                     // owns the tables
  std::vector<LearningTable*> tables_;    // inside model_.tables, maybe behind a control's table
  std::vector<TrainableTable*> local_;    // the same in one process
  std::vector<RowShard*> sharded_;        // or with several ranks
  std::vector<ShuffledTable*> shuffled_;  // only with the shuffled-hash control
  // Of several ranks: the rows of this step and of the next.
  std::unique_ptr<RowRequest> rows_, next_rows_;
  std::vector<torch::Tensor> frozen_;
  std::optional<Optimizer> optimizer_;
};

}  // namespace engram
