#include "engram/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include "engram/core/checked_math.h"
#include "engram/core/machine.h"
#include "engram/core/output_lock.h"
#include "engram/core/progress.h"
#include "engram/train/learner.h"
#include "engram/train/memory_need.h"
#include "engram/train/metrics_log.h"
#include "engram/train/phase_profiler.h"
#include "engram/train/run_directory.h"
#include "engram/train/train_state.h"

namespace engram {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

Status check_device(const TrainRecipe& recipe) {
  if (recipe.device == "cuda" && !torch::cuda::is_available())
    return make_status(StatusCode::kFailedPrecondition,
                       "train.device: got \"cuda\", but no NVIDIA device is usable by this program; wanted \"cpu\"");
  return Status();
}

// What the schedule reads, against what there is: "40 steps of 256 tokens: 10.2k tokens, 0.12 epochs of the 85.3k ...".
std::string describe_schedule(const RunInputs& inputs) {
  const Recipe& recipe = inputs.recipe;
  const auto step_tokens = static_cast<double>(
      saturating_product({recipe.data.batch_size, recipe.data.sequence_length, recipe.train.accumulation}));
  const double tokens = step_tokens * static_cast<double>(recipe.train.steps);
  const auto available = static_cast<double>(inputs.train_tokens());
  return fmt::format("{} steps of {} tokens: {} tokens, {:.3g} epochs of the {} in data.train", recipe.train.steps,
                     format_count(step_tokens), format_count(tokens), tokens / std::max(available, 1.0),
                     format_count(available));
}

// What validation reads, in memory once: every shard of data.validation as one sequence, or its first
// train.validation_batches batches.
TokenText read_validation(const RunInputs& inputs) {
  TokenText text = read_shards(inputs.validation);
  const DataRecipe& data = inputs.recipe.data;
  const int64_t length = inputs.recipe.model.max_position_embeddings;
  const int64_t wanted =
      saturating_sum({saturating_product({inputs.recipe.train.validation_batches, data.batch_size, length}), 1});
  if (wanted == 1 || wanted >= static_cast<int64_t>(text.token_ids.size())) return text;
  // A part of the text has no separate byte count: it is that of its tokens. Special tokens stand for no text.
  text.token_ids.resize(static_cast<size_t>(wanted));
  std::erase_if(text.document_starts, [&](int64_t start) { return start >= wanted; });
  text.bytes = 0;
  for (const int32_t id : text.token_ids)
    if (!inputs.tokenizer->is_special(id)) text.bytes += static_cast<int64_t>(inputs.tokenizer->token_bytes(id).size());
  return text;
}

nlohmann::ordered_json to_json(const std::vector<PartLoss>& parts) {
  nlohmann::ordered_json out = nlohmann::ordered_json::object();
  for (const PartLoss& part : parts) out[part.name] = {{"tokens", part.tokens}, {"loss", part.loss}};
  return out;
}

// One run. Every method after open() continues where the last left off.
class Run {
 public:
  Run(Env& env, const TrainOptions& options)
      : env_(env), options_(options), observer_(options.observer ? *options.observer : silent_) {}
  Status open(const Recipe& recipe);
  Status loop();
  TrainSummary summary();

 private:
  Status check_resumed_recipe(const std::string& checkpoint);
  Status start_from(const std::string& path);
  Status load_model_state(const std::string& checkpoint);
  Status restore(const std::string& checkpoint);
  void read_last_metrics();
  Status step();
  Status validate(nlohmann::ordered_json& line);
  Status save();
  bool due(int64_t every) const { return step_ == last_step_ || (every > 0 && step_ % every == 0); }
  bool stop_requested() const { return options_.stop && options_.stop->load(); }

  Env& env_;
  const TrainOptions& options_;
  TrainObserver silent_;
  TrainObserver& observer_;
  std::optional<OutputLock> lock_;
  RunInputs inputs_;
  std::optional<RunDirectory> directory_;
  std::unique_ptr<DataLoader> loader_;
  std::unique_ptr<Learner> learner_;
  std::unique_ptr<MetricsLog> metrics_;
  TokenText validation_;
  std::optional<TextParts> parts_;  // of validation_; made at the first validation
  PhaseProfiler profiler_;
  TrainPosition position_;
  int64_t step_ = 0, saved_step_ = 0, last_step_ = 0;
  double seconds_ = 0;
  TrainSummary summary_;
};

Status Run::open(const Recipe& recipe) {
  ENGRAM_RETURN_IF_ERROR(check_device(recipe.train));
  ENGRAM_ASSIGN_OR_RETURN(lock_, OutputLock::folder(env_, recipe.train.output, {}));
  ENGRAM_ASSIGN_OR_RETURN(directory_, RunDirectory::open(env_, recipe.train.output, options_.resume));
  ENGRAM_ASSIGN_OR_RETURN(inputs_, open_run_inputs(env_, recipe, directory_->data_path()));
  observer_.on_message(describe_schedule(inputs_));
  observer_.on_message(describe(inputs_.parameters));
  if (inputs_.validation_tokens() < 2)
    observer_.on_message("warning: data.validation holds no text, so that nothing will show overfitting");
  if (directory_->latest()) ENGRAM_RETURN_IF_ERROR(check_resumed_recipe(*directory_->latest()));
  ENGRAM_RETURN_IF_ERROR(directory_->create());

  const DataRecipe& data = inputs_.recipe.data;
  DataLoaderOptions loading;
  loading.batch_size = data.batch_size;
  loading.sequence_length = data.sequence_length;
  loading.seed = data.seed;
  loading.threads = static_cast<int>(data.loader_threads);
  const MemoryNeed need = memory_need(inputs_, loading.threads > 0 ? loading.prefetch : 0);
  ENGRAM_RETURN_IF_ERROR(check_memory(need, available_memory_bytes()));
  ENGRAM_ASSIGN_OR_RETURN(loader_, DataLoader::create(RunInputs::pointers(inputs_.train), inputs_.hasher, loading));
  validation_ = read_validation(inputs_);
  learner_ = std::make_unique<Learner>(inputs_);
  position_.vocabulary_digest = inputs_.tokenizer->vocabulary_digest();
  position_.train_tokens = inputs_.train_tokens();
  if (directory_->latest())
    ENGRAM_RETURN_IF_ERROR(restore(*directory_->latest()));
  else if (!recipe.train.start_from.empty())
    ENGRAM_RETURN_IF_ERROR(start_from(recipe.train.start_from));
  last_step_ = recipe.train.stop_at > 0 ? recipe.train.stop_at : recipe.train.steps;
  ENGRAM_ASSIGN_OR_RETURN(metrics_, MetricsLog::open(env_, directory_->metrics_path(), step_));
  read_last_metrics();
  return Status();
}

Status Run::check_resumed_recipe(const std::string& checkpoint) {
  ENGRAM_ASSIGN_OR_RETURN(const Recipe old, Recipe::load(env_, join_path(checkpoint, "recipe.toml"), {}));
  const std::vector<std::string> changed = inputs_.recipe.differences(old);
  if (changed.empty()) return Status();
  return make_status(StatusCode::kFailedPrecondition, "{}: the recipe differs from the checkpoint's: {}", checkpoint,
                     fmt::join(changed, "; "));
}

Status Run::load_model_state(const std::string& checkpoint) {
  ENGRAM_ASSIGN_OR_RETURN(const auto rows, load_table_rows(env_, checkpoint, inputs_.recipe.model));
  ENGRAM_RETURN_IF_ERROR(load_weights(env_, checkpoint, learner_->model()));
  for (size_t layer = 0; layer < rows.size(); ++layer) learner_->tables()[layer]->set_rows(rows[layer]);
  return Status();
}

// The model must be the checkpoint's in all but its length, which is what such a run is for.
Status Run::start_from(const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string checkpoint, resolve_checkpoint(env_, path));
  ENGRAM_ASSIGN_OR_RETURN(const Recipe old, Recipe::load(env_, join_path(checkpoint, "recipe.toml"), {}));
  for (const std::string& difference : inputs_.recipe.differences(old)) {
    if (!difference.starts_with("model.") || difference.starts_with("model.max_position_embeddings:") ||
        difference.starts_with("model.rope_scaling."))
      continue;
    return make_status(StatusCode::kFailedPrecondition, "train.start_from: {}: another model: {}", checkpoint,
                       difference);
  }
  ENGRAM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::load(env_, join_path(checkpoint, "tokenizer.json")));
  if (tokenizer.vocabulary_digest() != inputs_.tokenizer->vocabulary_digest())
    return make_status(StatusCode::kFailedPrecondition, "train.start_from: {}: another tokenizer than data.tokenizer",
                       checkpoint);
  return load_model_state(checkpoint);
}

Status Run::restore(const std::string& checkpoint) {
  ENGRAM_ASSIGN_OR_RETURN(position_, load_position(env_, checkpoint, position_));
  ENGRAM_RETURN_IF_ERROR(
      load_train_state(env_, checkpoint, train_state_tensors(learner_->optimizer(), learner_->tables())));
  ENGRAM_RETURN_IF_ERROR(load_model_state(checkpoint));
  step_ = saved_step_ = position_.step;
  loader_->seek(position_.next_batch);
  summary_.checkpoint = checkpoint;
  return Status();
}

// A continued run goes on counting where its last line stands.
void Run::read_last_metrics() {
  const nlohmann::json& last = metrics_->last_line();
  seconds_ = last.value("seconds", 0.0);
  summary_.loss = last.value("loss", 0.0);
  summary_.validation_loss = last.value("validation_loss", 0.0);
  summary_.bits_per_byte = last.value("bits_per_byte", 0.0);
  const nlohmann::json parts = last.value("validation_parts", nlohmann::json::object());
  for (const auto& [name, part] : parts.items())
    summary_.validation_parts.push_back({name, part.value("tokens", int64_t{0}), part.value("loss", 0.0)});
}

Status Run::loop() {
  if (step_ >= last_step_) {
    observer_.on_message(fmt::format("{}: already at step {} of {}", directory_->path(), step_, last_step_));
    return Status();
  }
  observer_.on_start(last_step_, step_);
  if (options_.profile) profiler_.start();
  while (step_ < last_step_ && !stop_requested()) ENGRAM_RETURN_IF_ERROR(step());
  profiler_.stop();
  observer_.on_end();
  summary_.interrupted = step_ < last_step_;
  return step_ > saved_step_ ? save() : Status();
}

Status Run::step() {
  const Recipe& recipe = inputs_.recipe;
  const double start = now();
  std::vector<Batch> batches;
  {
    RECORD_USER_SCOPE("phase:data");
    for (int64_t i = 0; i < recipe.train.accumulation; ++i) {
      ENGRAM_ASSIGN_OR_RETURN(Batch batch, loader_->next());
      batches.push_back(std::move(batch));
    }
  }
  const double multiplier = schedule_multiplier(recipe.optimizer, step_, recipe.train.steps);
  const StepResult result = learner_->step(batches, step_ + 1, multiplier);
  if (!std::isfinite(result.loss) || !std::isfinite(result.grad_norm))
    return make_status(
        StatusCode::kFailedPrecondition,
        "step {}: loss {}, gradient norm {}, wanted finite numbers; lower optimizer.muon_lr and "
        "optimizer.adamw_lr; {}",
        step_ + 1, result.loss, result.grad_norm,
        summary_.checkpoint.empty() ? "no checkpoint was made" : "last checkpoint: " + summary_.checkpoint);
  ++step_;
  position_.step = step_;
  position_.next_batch = batches.back().index + 1;
  position_.tokens += result.tokens;
  const double elapsed = now() - start;
  seconds_ += elapsed;
  summary_.loss = result.loss;

  const double tokens_per_second = static_cast<double>(result.tokens) / elapsed;
  nlohmann::ordered_json line;
  line["step"] = step_;
  line["loss"] = result.loss;
  line["lr"] = recipe.optimizer.muon_lr * multiplier;
  line["adamw_lr"] = recipe.optimizer.adamw_lr * multiplier;
  line["tokens"] = position_.tokens;
  line["seconds"] = seconds_;
  line["tokens_per_second"] = tokens_per_second;
  line["grad_norm"] = result.grad_norm;
  if (!result.expert_load.empty()) line["expert_load_max_over_mean"] = result.expert_load;
  if (!result.gate_mean.empty()) line["gate_mean"] = result.gate_mean;
  if (!learner_->tables().empty()) line["touched_rows"] = result.touched_rows;
  if (due(recipe.train.validate_every)) ENGRAM_RETURN_IF_ERROR(validate(line));
  ENGRAM_RETURN_IF_ERROR(metrics_->append(line));

  observer_.on_step(result.loss, tokens_per_second);
  if (step_ % recipe.train.log_every == 0)
    observer_.on_message(fmt::format("step {}: loss {:.4f}, gradient norm {:.3f}, {} tokens/s", step_, result.loss,
                                     result.grad_norm, format_count(tokens_per_second)));
  return due(recipe.train.checkpoint_every) ? save() : Status();
}

Status Run::validate(nlohmann::ordered_json& line) {
  if (validation_.token_ids.size() < 2) return Status();
  EvaluateOptions evaluation;
  evaluation.batch_size = inputs_.recipe.data.batch_size;
  if (!parts_)
    parts_ = divide_text(validation_.token_ids, inputs_.recipe.model.max_position_embeddings, inputs_.validation,
                         RunInputs::pointers(inputs_.train));
  evaluation.cell_of = parts_->cells;
  evaluation.cells = parts_->count();
  ENGRAM_ASSIGN_OR_RETURN(
      const EvaluateResult result,
      learner_->validate(validation_.token_ids, validation_.document_starts, validation_.bytes, evaluation));
  line["validation_loss"] = summary_.validation_loss = result.loss;
  line["bits_per_byte"] = summary_.bits_per_byte = result.bits_per_byte;
  summary_.validation_parts = parts_->losses(result.cell_nats, result.cell_tokens);
  line["validation_parts"] = to_json(summary_.validation_parts);
  observer_.on_message(fmt::format("step {}: validation loss {:.4f}, {:.4f} bits per byte over {} tokens", step_,
                                   result.loss, result.bits_per_byte, result.tokens));
  return Status();
}

Status Run::save() {
  ENGRAM_RETURN_IF_ERROR(metrics_->sync());
  const auto write = [&](const std::string& directory) -> Status {
    std::vector<torch::Tensor> rows;
    for (const TrainableTable* table : learner_->tables()) rows.push_back(table->rows().to(torch::kCPU));
    ENGRAM_RETURN_IF_ERROR(
        save_model(env_, directory, inputs_.recipe.model, *inputs_.tokenizer, learner_->model(), rows));
    return save_train_state(env_, directory, train_state_tensors(learner_->optimizer(), learner_->tables()),
                            learner_->tables(), position_, inputs_.recipe.to_toml());
  };
  ENGRAM_ASSIGN_OR_RETURN(summary_.checkpoint,
                          directory_->publish(step_, inputs_.recipe.train.keep_checkpoints, write));
  saved_step_ = step_;
  return Status();
}

TrainSummary Run::summary() {
  summary_.step = step_;
  summary_.steps = inputs_.recipe.train.steps;
  summary_.tokens = position_.tokens;
  summary_.seconds = seconds_;
  summary_.parameters = inputs_.parameters;
  summary_.peak_rss_bytes = peak_rss_bytes();
  if (options_.profile) summary_.phase_seconds = profiler_.seconds();
  return summary_;
}

}  // namespace

Result<TrainSummary> train(Env& env, const Recipe& recipe, const TrainOptions& options) {
  Run run(env, options);
  ENGRAM_RETURN_IF_ERROR(run.open(recipe));
  ENGRAM_RETURN_IF_ERROR(run.loop());
  return run.summary();
}

}  // namespace engram
