#include "engram/train/trainer.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "engram/core/json.h"
#include "engram/core/machine.h"
#include "engram/core/output_lock.h"
#include "engram/core/progress.h"
#include "engram/core/sha256.h"
#include "engram/model/io/lora.h"
#include "engram/train/exchange_costs.h"
#include "engram/train/learner.h"
#include "engram/train/memory_need.h"
#include "engram/train/metrics_log.h"
#include "engram/train/open_sinks.h"
#include "engram/train/phase_profiler.h"
#include "engram/train/run_checks.h"
#include "engram/train/run_directory.h"
#include "engram/train/step_meter.h"
#include "engram/train/train_state.h"
#include "engram/train/validation.h"
#include "engram/train/weight_average.h"

namespace engram {
namespace {

constexpr char kAverageFolder[] = "average";  // of a checkpoint: the same model with averaged weights

// Rank 0 writes a checkpoint to the disk while the others wait.
constexpr std::chrono::seconds kSavePatience{3600};

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// One run. Every method after open() continues where the last left off.
class Run {
 public:
  Run(Env& env, const TrainOptions& options)
      : env_(env), options_(options), observer_(options.observer && root() ? *options.observer : silent_) {}
  ~Run() {
    if (!scratch_.empty()) (void)env_.remove_directory_recursively(scratch_);
  }
  Status open(const Recipe& recipe);
  Status loop();
  TrainSummary summary();
  // This rank cannot go on: the others hear why.
  Status fail(const Status& why);
  // Another rank cannot: what to report.
  Status lost(const Status& why) const;

 private:
  bool root() const { return options_.world.rank == 0; }
  Status connect();
  Status continue_run(const Recipe& recipe);
  Status share_position();
  Status check_resumed_recipe(const std::string& checkpoint);
  Status check_start();
  void take_words(const CheckpointConfig& of);
  Status load_model_state(const std::string& checkpoint, bool attach);
  Status restore(const std::string& checkpoint);
  std::vector<StreamedTensor> table_rows();
  WeightAverage* average() { return average_ && step_ > inputs_.recipe.train.average_from ? &*average_ : nullptr; }
  Status write_model(const std::string& directory);
  Status validate(nlohmann::ordered_json& line);
  Status write_samples(nlohmann::ordered_json& line);
  Status skip(const StepResult& result);
  Status open_metrics();
  Status record(const nlohmann::ordered_json& line);
  Result<std::vector<Batch>> step_batches();
  Status step();
  Status measure();
  Status save();
  bool due(int64_t every) const { return step_ == last_step_ || (every > 0 && step_ % every == 0); }
  bool stop_requested() const { return options_.stop && options_.stop->load(); }

  Env& env_;
  const TrainOptions& options_;
  TrainObserver silent_;
  TrainObserver& observer_;
  std::string scratch_;  // of a rank that has no OUTPUT: its synthetic text
  std::optional<OutputLock> lock_;
  RunInputs inputs_;
  std::string start_directory_;            // of train.start_from, at rank 0
  CheckpointConfig file_;                  // of the checkpoints that rank 0 writes
  bool attach_ = false;                    // it has no memory, and the model has one
  std::optional<RunDirectory> directory_;  // at rank 0
  std::unique_ptr<Communicator> ranks_;
  std::unique_ptr<DataLoader> loader_;
  std::vector<Batch> next_batches_;  // of several ranks: those of the next step
  std::unique_ptr<Learner> learner_;
  std::vector<std::unique_ptr<MetricsSink>> metrics_;  // at rank 0
  std::optional<StepMeter> meter_;
  std::optional<WeightAverage> average_;
  std::optional<Validation> validation_;
  PhaseProfiler profiler_;
  TrainPosition position_;
  int64_t step_ = 0, saved_step_ = 0, last_step_ = 0;
  double seconds_ = 0;
  int64_t skipped_in_a_row_ = 0;
  bool stopped_ = false;
  ExchangeCosts exchanged_;
  TrainSummary summary_;
};

Status Run::open(const Recipe& recipe) {
  ENGRAM_RETURN_IF_ERROR(check_run(recipe, options_.world.size));
  std::string data_path;
  if (root()) {
    ENGRAM_ASSIGN_OR_RETURN(lock_, OutputLock::folder(env_, recipe.train.output, {}));
    ENGRAM_ASSIGN_OR_RETURN(directory_, RunDirectory::open(env_, recipe.train.output, options_.resume));
    data_path = directory_->data_path();
  } else {
    data_path = scratch_ = fmt::format("{}/engram-rank-{}-{}", std::filesystem::temp_directory_path().string(),
                                       options_.world.rank, getpid());
  }
  ENGRAM_ASSIGN_OR_RETURN(inputs_, open_run_inputs(env_, recipe, data_path));
  if (root() && directory_->latest()) ENGRAM_RETURN_IF_ERROR(check_resumed_recipe(*directory_->latest()));
  file_ = make_checkpoint_config(inputs_.recipe.model, *inputs_.tokenizer);
  if (root() && (!directory_->latest() || recipe.train.steps == 0)) ENGRAM_RETURN_IF_ERROR(check_start());
  if (root()) ENGRAM_RETURN_IF_ERROR(directory_->create());

  const DataRecipe& data = inputs_.recipe.data;
  DataLoaderOptions loading;
  loading.batch_size = data.batch_size;
  loading.sequence_length = data.sequence_length;
  loading.packing = data.packing;
  loading.seed = data.seed;
  loading.threads = static_cast<int>(data.loader_threads);
  loading.batches_per_step = recipe.train.accumulation;
  loading.num_batches = recipe.train.accumulation / options_.world.size;
  loading.first_batch = options_.world.rank * loading.num_batches;
  const MemoryNeed need = memory_need(inputs_, loading.threads > 0 ? loading.prefetch : 0, options_.world.size);
  ENGRAM_RETURN_IF_ERROR(check_memory(need, available_memory_bytes() / options_.world.local_size));
  ENGRAM_ASSIGN_OR_RETURN(loader_, DataLoader::create(inputs_.sources(), inputs_.hasher, loading));
  for (const std::string& line : describe_schedule(inputs_, *loader_)) observer_.on_message(line);
  observer_.on_message(describe(inputs_.parameters));
  if (inputs_.validation_tokens() < 2 && inputs_.validation_sets.empty())
    observer_.on_message("warning: data.validation holds no text, so that nothing will show overfitting");
  validation_.emplace(inputs_);
  position_.vocabulary_digest = inputs_.tokenizer->vocabulary_digest();
  position_.train_tokens = inputs_.train_tokens();
  ENGRAM_RETURN_IF_ERROR(connect());
  learner_ = std::make_unique<Learner>(inputs_, *ranks_);
  for (const std::string& prompt : recipe.train.sample_prompts)
    ENGRAM_RETURN_IF_ERROR(
        prompt_context(learner_->loaded_model(), prompt).status().with_context("train.sample_prompts"));
  if (recipe.train.average != AverageKind::kNone)
    average_.emplace(learner_->model().parameters(),
                     recipe.train.average == AverageKind::kMean ? 1 : recipe.train.average_decay);
  ENGRAM_RETURN_IF_ERROR(continue_run(recipe));
  last_step_ = recipe.train.stop_at > 0 ? recipe.train.stop_at : recipe.train.steps;
  if (step_ < last_step_) meter_.emplace(inputs_, ranks_->size());
  return root() ? open_metrics() : Status();
}

Status Run::connect() {
  if (options_.world.size == 1) {
    ranks_ = Communicator::alone();
    return {};
  }
  Sha256 digest;
  digest.update(inputs_.recipe.to_toml());
  Hello hello;
  hello.program = options_.program;
  hello.recipe = digest.hex();
  hello.vocabulary = position_.vocabulary_digest;
  hello.train_tokens = position_.train_tokens;
  ENGRAM_ASSIGN_OR_RETURN(ranks_, Communicator::connect(options_.world, hello,
                                                        std::chrono::seconds(inputs_.recipe.train.exchange_timeout)));
  observer_.on_message(
      fmt::format("{} ranks share each step's {} micro-batches", ranks_->size(), inputs_.recipe.train.accumulation));
  return {};
}

Status Run::fail(const Status& why) {
  if (!ranks_ || ranks_->size() == 1) return why;
  ranks_->fail(why);
  return why;
}

Status Run::lost(const Status& why) const {
  std::string message = why.message();
  if (step_ > 0 || saved_step_ > 0) message += fmt::format(" in step {} of {}", step_ + 1, last_step_);
  if (root()) message += saved_step_ > 0 ? "; last checkpoint: " + summary_.checkpoint : "; no checkpoint was made";
  return Status(why.code(), message);
}

// Where the run goes on: at its latest checkpoint, at another run's weights, or at the beginning.
Status Run::continue_run(const Recipe& recipe) {
  std::string checkpoint;  // rank 0 has it
  if (root() && directory_->latest()) {
    checkpoint = *directory_->latest();
    ENGRAM_ASSIGN_OR_RETURN(position_, load_position(env_, checkpoint, position_));
  }
  ENGRAM_RETURN_IF_ERROR(share_position());
  if (position_.step > 0) return restore(checkpoint);
  if (recipe.train.start_from.empty()) return {};
  return load_model_state(start_directory_, attach_);
}

// Every rank gets rank 0's position, and whether a memory joins a model without one.
Status Run::share_position() {
  torch::Tensor numbers = torch::tensor(
      {position_.step, position_.next_batch, position_.tokens, static_cast<int64_t>(attach_)}, torch::kLong);
  ranks_->broadcast(Channel::kControl, numbers, 0).wait();
  position_.step = numbers[0].item<int64_t>();
  position_.next_batch = numbers[1].item<int64_t>();
  position_.tokens = numbers[2].item<int64_t>();
  attach_ = numbers[3].item<int64_t>() != 0;
  return {};
}

Status Run::check_resumed_recipe(const std::string& checkpoint) {
  ENGRAM_ASSIGN_OR_RETURN(const Recipe old, Recipe::load(env_, join_path(checkpoint, "recipe.toml"), {}));
  const std::vector<std::string> changed = inputs_.recipe.differences(old);
  if (changed.empty()) return Status();
  return make_status(StatusCode::kFailedPrecondition, "{}: the recipe differs from the checkpoint's: {}", checkpoint,
                     fmt::join(changed, "; "));
}

std::vector<StreamedTensor> Run::table_rows() {
  std::vector<StreamedTensor> rows;
  for (LearningTable* table : learner_->tables()) rows.push_back(table->stored_rows());
  return rows;
}

// attach: the checkpoint has no memory, and the model's stays as it was drawn, without a say.
Status Run::load_model_state(const std::string& checkpoint, bool attach) {
  TransformerImpl& model = learner_->model();
  if (root() && attach) {
    ENGRAM_RETURN_IF_ERROR(load_backbone(env_, checkpoint, model));
    ENGRAM_RETURN_IF_ERROR(merge_lora(env_, checkpoint, model));
    model.silence_memory();
  } else if (root()) {
    ENGRAM_RETURN_IF_ERROR(fill_table_rows(env_, checkpoint, inputs_.recipe.model, table_rows()));
    ENGRAM_RETURN_IF_ERROR(load_weights(env_, checkpoint, model));
    // A run that goes on trains its changes further; one that begins here has them in its base.
    const bool goes_on = position_.step > 0 && inputs_.recipe.lora.rank > 0;
    ENGRAM_RETURN_IF_ERROR(goes_on ? load_lora(env_, checkpoint, model) : merge_lora(env_, checkpoint, model));
  } else {
    if (!attach) follow_writes(table_rows());
    follow_writes(spread_weights(model));
  }
  learner_->optimizer().exchange().send_parameters();
  if (ranks_->size() == 1) return Status();
  for (const torch::Tensor& weight : learner_->frozen()) ranks_->broadcast(Channel::kDense, weight.detach(), 0).wait();
  for (const torch::Tensor& buffer : model.buffers()) ranks_->broadcast(Channel::kDense, buffer, 0).wait();
  return Status();
}

// The model must be the checkpoint's in all but its length, its view of other documents and its memory, which are what
// such a run is for and need no weights of the checkpoint.
Status Run::check_start() {
  if (inputs_.recipe.train.start_from.empty()) return {};
  ENGRAM_ASSIGN_OR_RETURN(start_directory_, resolve_checkpoint(env_, inputs_.recipe.train.start_from));
  ENGRAM_ASSIGN_OR_RETURN(const CheckpointConfig start,
                          read_checkpoint_config(env_, join_path(start_directory_, kConfigFile)));
  Recipe old = inputs_.recipe;
  old.model = start.config;
  const bool had_none = start.config.memory == MemoryKind::kNone;  // its keys of a memory then say nothing
  const ModelConfig& model = inputs_.recipe.model;                 // a memory that begins as no change can be added
  attach_ =
      had_none && (model.memory_in_blocks() || (model.memory == MemoryKind::kEngram && !model.engram_average_word));
  for (const std::string& difference : inputs_.recipe.differences(old)) {
    if (difference.starts_with("model.max_position_embeddings:") || difference.starts_with("model.rope_scaling.") ||
        difference.starts_with("model.attention_document_mask:") ||
        (attach_ && difference.starts_with("model.memory:")) || (had_none && difference.starts_with("model.engram.")))
      continue;
    return make_status(StatusCode::kFailedPrecondition, "train.start_from: {}: another model: {}", start_directory_,
                       difference);
  }
  if (start.vocabulary_digest != inputs_.tokenizer->vocabulary_digest())
    return make_status(StatusCode::kFailedPrecondition, "train.start_from: {}: another tokenizer than data.tokenizer",
                       start_directory_);
  take_words(start);
  return {};
}

// How its texts begin and end, and how its chats are written, a model keeps.
void Run::take_words(const CheckpointConfig& of) {
  file_.special = of.special;
  file_.chat_template = of.chat_template;
}

Status Run::restore(const std::string& checkpoint) {
  if (root()) {
    ENGRAM_ASSIGN_OR_RETURN(const CheckpointConfig saved,
                            read_checkpoint_config(env_, join_path(checkpoint, kConfigFile)));
    take_words(saved);
  }
  const std::vector<StreamedTensor> state = train_state_tensors(learner_->optimizer(), learner_->tables());
  if (root()) {
    ENGRAM_RETURN_IF_ERROR(load_train_state(env_, checkpoint, state));
  } else {
    follow_writes(state);
  }
  step_ = saved_step_ = position_.step;
  if (average()) {
    ENGRAM_RETURN_IF_ERROR(load_model_state(join_path(checkpoint, kAverageFolder), /*attach=*/false));
    average_->take();
  }
  ENGRAM_RETURN_IF_ERROR(load_model_state(checkpoint, /*attach=*/false));
  loader_->seek(position_.next_batch);
  summary_.checkpoint = checkpoint;
  return Status();
}

// A continued run goes on counting where its last line stands.
Status Run::open_metrics() {
  ENGRAM_ASSIGN_OR_RETURN(auto log, MetricsLog::open(env_, directory_->metrics_path(), step_));
  const nlohmann::json& last = log->last_line();
  seconds_ = last.value("seconds", 0.0);
  summary_.loss = last.value("loss", 0.0);
  summary_.skipped_steps = last.value("skipped_steps", int64_t{0});
  Validation::restore(last, summary_);
  ENGRAM_ASSIGN_OR_RETURN(metrics_, open_metrics_sinks(env_, inputs_.recipe, step_));
  metrics_.insert(metrics_.begin(), std::move(log));
  if (meter_ && !meter_->describe().empty()) observer_.on_message(meter_->describe());
  return Status();
}

Status Run::record(const nlohmann::ordered_json& line) {
  for (const auto& sink : metrics_) ENGRAM_RETURN_IF_ERROR(sink->append(line));
  return Status();
}

Status Run::loop() {
  if (inputs_.recipe.train.steps == 0) return measure();
  if (step_ >= last_step_) {
    observer_.on_message(fmt::format("{}: already at step {} of {}", inputs_.recipe.train.output, step_, last_step_));
    return Status();
  }
  observer_.on_start(last_step_, step_);
  if (options_.profile) profiler_.start();
  // Several ranks hear of a stop inside a step, so that all make the same number of them.
  while (step_ < last_step_ && !stopped_ && !(ranks_->size() == 1 && stop_requested())) ENGRAM_RETURN_IF_ERROR(step());
  profiler_.stop();
  observer_.on_end();
  for (const std::string& line : exchanged_.lines()) observer_.on_message(line);
  summary_.interrupted = step_ < last_step_;
  return step_ > saved_step_ ? save() : Status();
}

// A run of no steps says what the model is before one.
Status Run::measure() {
  nlohmann::ordered_json line;
  line["step"] = step_;
  ENGRAM_RETURN_IF_ERROR(validate(line));
  ENGRAM_RETURN_IF_ERROR(write_samples(line));
  ENGRAM_RETURN_IF_ERROR(record(line));
  return save();
}

// Of the weights and, beside them, of their average.
Status Run::validate(nlohmann::ordered_json& line) {
  const std::string whose = fmt::format("step {}", step_);
  ENGRAM_RETURN_IF_ERROR(validation_->measure(*learner_, whose, summary_, line, observer_));
  if (!average()) return {};
  const Averaged averaged(average());
  TrainSummary found;
  nlohmann::ordered_json of_average = nlohmann::ordered_json::object();
  ENGRAM_RETURN_IF_ERROR(validation_->measure(*learner_, whose + ", averaged weights", found, of_average, observer_));
  summary_.average_validation_loss = found.validation_loss;
  line["average"] = std::move(of_average);
  return {};
}

Status Run::write_samples(nlohmann::ordered_json& line) {
  const TrainRecipe& train = inputs_.recipe.train;
  GenerateOptions options;
  options.max_tokens = static_cast<int>(train.sample_tokens);
  options.sampler.temperature = train.sample_temperature;
  options.sampler.seed = train.seed;
  for (const std::string& prompt : train.sample_prompts) {
    ENGRAM_ASSIGN_OR_RETURN(const std::string text, learner_->sample(prompt, options));
    line["samples"].push_back({{"prompt", prompt}, {"text", text}});
    observer_.on_message(fmt::format("step {}: {}", step_, quote_text(prompt + text, 400)));
  }
  return {};
}

// A step whose numbers are not finite has changed no weight.
Status Run::skip(const StepResult& result) {
  const std::string what = fmt::format("loss {}, gradient norm {}", result.loss, result.grad_norm);
  if (skipped_in_a_row_++ >= inputs_.recipe.train.max_skipped_steps)
    return make_status(
        StatusCode::kFailedPrecondition,
        "{}step {}: {}, wanted finite numbers{}; lower optimizer.muon_lr and optimizer.adamw_lr; {}",
        root() ? "" : "rank 0: ", step_ + 1, what,
        skipped_in_a_row_ > 1 ? fmt::format(" after {} skipped steps", skipped_in_a_row_ - 1) : "",
        summary_.checkpoint.empty() ? "no checkpoint was made" : "last checkpoint: " + summary_.checkpoint);
  ++summary_.skipped_steps;
  observer_.on_message(fmt::format("warning: step {} is skipped: {}", step_ + 1, what));
  return {};
}

// This rank's part of a step.
Result<std::vector<Batch>> Run::step_batches() {
  RECORD_USER_SCOPE("phase:data");
  std::vector<Batch> batches;
  for (int64_t i = 0; i < inputs_.recipe.train.accumulation / ranks_->size(); ++i) {
    ENGRAM_ASSIGN_OR_RETURN(Batch batch, loader_->next());
    batches.push_back(std::move(batch));
  }
  return batches;
}

Status Run::step() {
  const Recipe& recipe = inputs_.recipe;
  const double start = now();
  StepClock clock(*ranks_);
  std::vector<Batch> batches = std::exchange(next_batches_, {});
  if (batches.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(batches, step_batches());
  }
  if (ranks_->size() > 1 && step_ + 1 < last_step_) {
    ENGRAM_ASSIGN_OR_RETURN(next_batches_, step_batches());
  }
  StepSeconds waited;
  clock.lap(waited, &StepSeconds::data);
  const double multiplier = schedule_multiplier(recipe.optimizer, step_, recipe.train.steps);
  const int64_t histograms_every = recipe.metrics.histograms_every;
  learner_->want_histograms(histograms_every > 0 && (step_ + 1) % histograms_every == 0);
  StepResult result = learner_->step(batches, step_ + 1, multiplier, options_.stop, next_batches_);
  result.seconds.data = waited.data;
  stopped_ = result.stop;
  const bool finite = std::isfinite(result.loss) && std::isfinite(result.grad_norm);
  if (!finite) ENGRAM_RETURN_IF_ERROR(skip(result));
  if (finite) {
    skipped_in_a_row_ = 0;
    summary_.loss = result.loss;
  }
  ++step_;
  if (WeightAverage* average = this->average()) average->add(step_ - recipe.train.average_from - 1);
  position_.step = step_;
  position_.next_batch += recipe.train.accumulation;
  position_.tokens += result.tokens;
  const double elapsed = now() - start;
  seconds_ += elapsed;

  nlohmann::ordered_json line;
  line["step"] = step_;
  if (finite) line["loss"] = result.loss;
  line["lr"] = recipe.optimizer.muon_lr * multiplier;
  line["adamw_lr"] = recipe.optimizer.adamw_lr * multiplier;
  line["tokens"] = position_.tokens;
  line["seconds"] = seconds_;
  meter_->add(result, elapsed, line);
  if (finite) line["grad_norm"] = result.grad_norm;
  if (summary_.skipped_steps > 0) line["skipped_steps"] = summary_.skipped_steps;
  if (!result.expert_load.empty()) line["expert_load_max_over_mean"] = result.expert_load;
  if (!result.gate_mean.empty()) line["gate_mean"] = result.gate_mean;
  if (!learner_->tables().empty()) line["touched_rows"] = result.touched_rows;
  if (ranks_->size() > 1) line["exchange"] = exchanged_.add(*ranks_, result, elapsed);
  add_histograms(result, recipe.model, line);
  if (due(recipe.train.validate_every)) ENGRAM_RETURN_IF_ERROR(validate(line));
  if (due(recipe.train.samples_every)) ENGRAM_RETURN_IF_ERROR(write_samples(line));
  ENGRAM_RETURN_IF_ERROR(record(line));

  observer_.on_step(summary_.loss, static_cast<double>(result.positions) / elapsed);
  if (step_ % recipe.train.log_every == 0)
    observer_.on_message(fmt::format("step {}: loss {:.4f}, gradient norm {:.3f}, {}", step_, summary_.loss,
                                     result.grad_norm, meter_->last()));
  return due(recipe.train.checkpoint_every) ? save() : Status();
}

// What the model says now, as a checkpoint; ranks without a file follow.
Status Run::write_model(const std::string& directory) {
  TransformerImpl& model = learner_->model();
  if (!root()) {
    follow_reads(spread_weights(model));
    follow_reads(table_rows());
    return {};
  }
  ENGRAM_RETURN_IF_ERROR(save_model(env_, directory, file_, *inputs_.tokenizer, model, table_rows()));
  return inputs_.recipe.lora.rank > 0 ? save_lora(env_, directory, model, inputs_.recipe.lora) : Status();
}

Status Run::save() {
  const std::vector<StreamedTensor> state = train_state_tensors(learner_->optimizer(), learner_->tables());
  if (root()) {
    for (const auto& sink : metrics_) ENGRAM_RETURN_IF_ERROR(sink->sync());
    const auto write = [&](const std::string& directory) -> Status {
      ENGRAM_RETURN_IF_ERROR(write_model(directory));
      if (average()) {
        const Averaged averaged(average());
        ENGRAM_RETURN_IF_ERROR(write_model(join_path(directory, kAverageFolder)));
        ENGRAM_RETURN_IF_ERROR(env_.sync_directory(join_path(directory, kAverageFolder)));
      }
      return save_train_state(env_, directory, state, learner_->tables(), position_, inputs_.recipe.to_toml());
    };
    ENGRAM_ASSIGN_OR_RETURN(summary_.checkpoint,
                            directory_->publish(step_, inputs_.recipe.train.keep_checkpoints, write));
  } else {
    ENGRAM_RETURN_IF_ERROR(write_model(""));
    if (average()) {
      const Averaged averaged(average());
      ENGRAM_RETURN_IF_ERROR(write_model(""));
    }
    follow_reads(state);
  }
  ENGRAM_RETURN_IF_ERROR(ranks_->agree({}, kSavePatience));
  saved_step_ = step_;
  return Status();
}

TrainSummary Run::summary() {
  summary_.step = step_;
  summary_.steps = inputs_.recipe.train.steps;
  summary_.tokens = position_.tokens;
  summary_.seconds = seconds_;
  summary_.parameters = inputs_.parameters;
  summary_.trained_parameters = inputs_.parameters.table;
  for (const torch::Tensor& weight : learner_->model().parameters())
    if (weight.requires_grad()) summary_.trained_parameters += weight.numel();
  summary_.peak_rss_bytes = peak_rss_bytes();
  summary_.exchange = exchanged_.means();
  if (meter_) meter_->fill(summary_);
  if (options_.profile) summary_.phase_seconds = profiler_.seconds();
  return summary_;
}

}  // namespace

Result<TrainSummary> train(Env& env, const Recipe& recipe, const TrainOptions& options) {
  Run run(env, options);
  try {
    Status status = run.open(recipe);
    if (status.ok()) status = run.loop();
    if (!status.ok()) return run.fail(status);
    return run.summary();
  } catch (const ExchangeFailed& failure) {
    return run.lost(failure.status());
  } catch (const c10::Error& error) {
    (void)run.fail(Status(StatusCode::kInternal, error.what_without_backtrace()));
    throw;
  } catch (const std::exception& error) {
    (void)run.fail(Status(StatusCode::kInternal, error.what()));
    throw;
  }
}

}  // namespace engram
