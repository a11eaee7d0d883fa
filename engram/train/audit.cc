#include "engram/train/audit.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/core/lines.h"
#include "engram/data/data_loader.h"
#include "engram/data/token_shard.h"
#include "engram/formats/safetensors.h"
#include "engram/model/io/checkpoint.h"
#include "engram/model/parameters.h"
#include "engram/train/recipe.h"
#include "engram/train/run_inputs.h"
#include "engram/train/train_state.h"

namespace engram {
namespace {

constexpr const char* kOptimizerFile = "optimizer.safetensors";

float number_at(const TensorView& view, size_t i) {
  if (view.dtype == DType::kF32) {
    float value;
    std::memcpy(&value, view.bytes.data() + 4 * i, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, view.bytes.data() + 2 * i, 2);
  if (view.dtype == DType::kBF16) return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  return (bits & 0x7C00) == 0x7C00 ? NAN : 1.0f;  // F16: only whether it is finite
}
bool is_number(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16; }

int64_t count_not_finite(const TensorView& view) {
  int64_t count = 0;
  const size_t width = dtype_size(view.dtype), numbers = view.bytes.size() / width;
  for (size_t i = 0; i < numbers; ++i) count += std::isfinite(number_at(view, i)) ? 0 : 1;
  return count;
}

class Audit {
 public:
  Audit(Env& env, std::string checkpoint) : env_(env) { report_.checkpoint = std::move(checkpoint); }

  AuditReport run() {
    if (check_model()) {
      check_numbers();
      check_recipe();
    }
    return std::move(report_);
  }

 private:
  std::string file(const std::string& name) const { return join_path(report_.checkpoint, name); }
  void say(AuditVerdict verdict, const std::string& subject, std::string text) {
    report_.lines.push_back({verdict, subject, std::move(text)});
  }
  void good(const std::string& subject, std::string text) { say(AuditVerdict::kGood, subject, std::move(text)); }
  void note(const std::string& subject, std::string text) { say(AuditVerdict::kNote, subject, std::move(text)); }
  void fault(const std::string& subject, std::string text) { say(AuditVerdict::kFault, subject, std::move(text)); }

  // Names, shapes, sizes, tokenizer and token map, as whoever uses the model checks them; and the counter's numbers.
  bool check_model() {
    Result<LoadedModel> model = load_model(env_, report_.checkpoint);
    if (!model.ok()) {
      fault("model", model.status().message());
      return false;
    }
    model_ = std::move(model).value();
    good("model", "weights, configuration and tokenizer belong together");
    int64_t found = 0;
    for (const torch::Tensor& weight : model_.model->parameters()) found += weight.numel();
    const Result<std::vector<int64_t>> rows = count_rows(model_.config.engram);
    for (size_t layer = 0; rows.ok() && layer < model_.tables.size(); ++layer)
      found += (*rows)[layer] * model_.config.engram.head_dim;
    const Result<ParameterCount> counted = count_parameters(model_.config);
    const int64_t wanted = counted.ok() ? counted->p_tot + counted->vocabulary : -1;
    say(found == wanted ? AuditVerdict::kGood : AuditVerdict::kFault, "parameters",
        fmt::format("{} in the files, {} counted from the configuration", found, wanted));
    return true;
  }

  void check_numbers() {
    int64_t tensors = 0, files = 0;
    std::vector<std::string> bad;
    for (const char* name : {"model.safetensors", "engram.safetensors", "adapter_model.safetensors", kOptimizerFile}) {
      if (!env_.file_exists(file(name))) continue;
      const Result<SafetensorsFile> opened = SafetensorsFile::open(env_, file(name));
      if (!opened.ok()) {
        fault("numbers", opened.status().message());
        continue;
      }
      ++files;
      for (const auto& [tensor, view] : opened->tensors()) {
        if (!is_number(view.dtype)) continue;
        ++tensors;
        if (const int64_t count = count_not_finite(view); count > 0)
          bad.push_back(
              fmt::format("{}: {} has {} of {}", name, tensor, count, view.bytes.size() / dtype_size(view.dtype)));
      }
      if (const Status same = opened->check_unchanged(); !same.ok()) fault("numbers", same.message());
    }
    if (bad.empty()) return good("numbers", fmt::format("all of {} tensors in {} files are finite", tensors, files));
    fault("numbers", fmt::format("not finite in {} tensors; {}", bad.size(), bad.front()));
  }

  void check_recipe() {
    if (!env_.file_exists(file("recipe.toml")))
      return note("recipe", "there is none: no training run of ours wrote this checkpoint");
    const Result<Recipe> recipe = Recipe::load(env_, file("recipe.toml"), {});
    if (!recipe.ok()) return fault("recipe", recipe.status().message());
    Recipe as_model = *recipe;
    as_model.model = model_.config;
    const std::vector<std::string> differences = as_model.differences(*recipe);
    if (differences.empty()) {
      good("recipe", "its [model] is the checkpoint's");
    } else {
      fault("recipe", fmt::format("config.json differs: {}", differences.front()));
    }
    if (!env_.file_exists(file("state.json"))) return note("state", "there is none: this checkpoint cannot be resumed");
    check_state(*recipe);
  }

  void check_state(const Recipe& recipe) {
    const Result<nlohmann::json> state = read_json_file(env_, file("state.json"));
    if (!state.ok()) return fault("state", state.status().message());
    TrainPosition position;
    position.vocabulary_digest = model_.tokenizer->vocabulary_digest();
    Fields fields(*state, file("state.json"));
    fields.need("train_tokens", position.train_tokens, 0);
    if (!fields.status().ok()) return fault("state", fields.status().message());
    const Result<TrainPosition> loaded = load_position(env_, report_.checkpoint, position);
    if (!loaded.ok()) return fault("state", loaded.status().message());
    const int64_t batches = loaded->step * recipe.train.accumulation;
    say(loaded->next_batch == batches ? AuditVerdict::kGood : AuditVerdict::kFault, "state",
        fmt::format("step {} of {}, {} target tokens; {} micro-batches read, {} make these steps", loaded->step,
                    recipe.train.steps, loaded->tokens, loaded->next_batch, batches));
    check_data(recipe, *loaded);
    check_optimizer(recipe, *loaded);
    check_metrics(*loaded);
  }

  void check_data(Recipe recipe, const TrainPosition& position) {
    fill_in_seed(recipe.data);
    if (recipe.data.synthetic_documents > 0)
      recipe.data.train = {join_path(parent_path(report_.checkpoint), "data/train.tokens")};
    std::vector<TokenShard> shards;
    int64_t tokens = 0;
    for (const std::string& path : recipe.data.train_files()) {
      Result<TokenShard> shard = TokenShard::open(env_, path);
      if (shard.status().code() == StatusCode::kNotFound)
        return note("data", fmt::format("{} is not there from here: nothing of the text was checked", path));
      if (!shard.ok()) return fault("data", shard.status().message());
      if (shard->info().vocabulary_digest != position.vocabulary_digest)
        return fault("data", fmt::format("{}: of another vocabulary than the checkpoint", path));
      tokens += shard->info().num_tokens;
      shards.push_back(std::move(shard).value());
    }
    if (tokens != position.train_tokens)
      return fault("data",
                   fmt::format("{} tokens in the training shards, the state says {}", tokens, position.train_tokens));
    RunInputs inputs;
    inputs.recipe = recipe;
    inputs.train = std::move(shards);
    DataLoaderOptions loading;
    loading.batch_size = recipe.data.batch_size;
    loading.sequence_length = recipe.data.sequence_length;
    loading.packing = recipe.data.packing;
    loading.seed = recipe.data.seed;
    loading.threads = 0;
    const std::vector<DataSource> sources = inputs.sources();
    const auto loader = DataLoader::create(sources, model_.hasher, loading);
    if (!loader.ok()) return fault("data", loader.status().message());
    double shares = 0;
    for (const DataSource& source : sources) shares += source.share;
    const auto read = static_cast<double>(position.next_batch * recipe.data.batch_size);
    double most = 0;
    int64_t windows = 0;
    for (size_t i = 0; i < sources.size(); ++i) {
      const int64_t there = (*loader)->windows_per_epoch(i);
      windows += there;
      most = std::max(most, read * sources[i].share / shares / static_cast<double>(there));
    }
    // A pass reads every window once, in an order of its own (data/permutation.h).
    good("data", fmt::format("{} tokens, {} windows; {:.0f} read, the most repeated source {:.2f} times{}", tokens,
                             windows, read, most, most <= 1 ? ": no window twice" : ""));
    if (most > 2) note("data", "text read more than twice: see the warning of training");
  }

  // What no step has reached: rows by their own counter, experts by momentum that is all zero.
  void check_optimizer(const Recipe& recipe, const TrainPosition& position) {
    const Result<SafetensorsFile> opened = SafetensorsFile::open(env_, file(kOptimizerFile));
    if (!opened.ok()) return fault("optimizer", opened.status().message());
    for (const auto& [name, view] : opened->tensors()) {
      if (name.starts_with("table.") && name.ends_with(".steps") && view.dtype == DType::kI32)
        check_rows(recipe, name.substr(6, name.size() - 12), view, position.step);
      const bool is_state = name.starts_with("muon.momentum.") || name.starts_with("adamw.exp_avg_sq.");
      if (is_state && name.find(".experts.") != std::string::npos && view.dtype == DType::kF32 &&
          view.shape.size() == 3)
        check_experts(name, view);
    }
  }

  void check_rows(const Recipe& recipe, const std::string& layer, const TensorView& view, int64_t step) {
    const size_t rows = view.bytes.size() / 4;
    size_t touched = 0;
    uint32_t most = 0;
    for (size_t row = 0; row < rows; ++row) {
      uint32_t steps;
      std::memcpy(&steps, view.bytes.data() + 4 * row, 4);
      touched += steps > 0 ? 1 : 0;
      most = std::max(most, steps);
    }
    const std::string subject = "rows of memory layer " + layer;
    const std::string text =
        fmt::format("{} of {} touched ({:.1f} %), the busiest in {} of {} steps", touched, rows,
                    100.0 * static_cast<double>(touched) / static_cast<double>(std::max<size_t>(rows, 1)), most, step);
    const bool learns = !is_frozen(recipe.train, ParameterRole::kMemory);
    if (most > step || (touched == 0 && learns && step > 1)) return fault(subject, text);
    say(touched < rows ? AuditVerdict::kNote : AuditVerdict::kGood, subject, text);
  }

  void check_experts(const std::string& name, const TensorView& view) {
    const auto experts = static_cast<size_t>(view.shape[0]);
    const size_t each = view.bytes.size() / 4 / std::max<size_t>(experts, 1);
    std::vector<size_t> dead;
    for (size_t e = 0; e < experts; ++e) {
      bool alive = false;
      for (size_t i = 0; i < each && !alive; ++i) alive = number_at(view, e * each + i) != 0;
      if (!alive) dead.push_back(e);
    }
    if (dead.empty()) return good("experts", fmt::format("{}: every one of {} has learned", name, experts));
    fault("experts",
          fmt::format("{}: no token has reached {} of {}, expert {} for one", name, dead.size(), experts, dead[0]));
  }

  void check_metrics(const TrainPosition& position) {
    const std::string path = join_path(parent_path(report_.checkpoint), "metrics.jsonl");
    if (!env_.file_exists(path)) return note("metrics", "there is no metrics.jsonl beside the checkpoint");
    const Result<std::string> text = env_.read_file(path);
    if (!text.ok()) return fault("metrics", text.status().message());
    std::string_view rest = *text;
    int64_t step = 0;
    while (step < position.step && !rest.empty()) {
      const std::string place = fmt::format("{}:{}", path, step + 1);
      const Result<nlohmann::json> line = parse_json(take_line(rest), place);
      if (!line.ok()) return fault("metrics", line.status().message());
      ++step;
      Fields fields(*line, place);
      int64_t number = 0, tokens = -1;
      fields("step", number, 0);
      fields("tokens", tokens, 0);
      if (!fields.status().ok()) return fault("metrics", fields.status().message());
      if (number != step) return fault("metrics", fmt::format("{}: got another step, wanted {}", place, step));
      const auto loss = line->find("loss");
      const bool skipped = loss == line->end() && line->contains("skipped_steps");
      if (!skipped && (loss == line->end() || !loss->is_number() || !std::isfinite(loss->get<double>())))
        return fault("metrics", fmt::format("{}: step {} has no finite loss", place, step));
      if (step == position.step && tokens != position.tokens)
        return fault("metrics", fmt::format("{}: {} tokens, the state says {}", place, tokens, position.tokens));
    }
    if (step < position.step)
      return fault("metrics",
                   fmt::format("{}: ends at step {}, the checkpoint is of step {}", path, step, position.step));
    good("metrics", fmt::format("steps 1 to {}, each with a finite loss; tokens as the state has them", step));
  }

  Env& env_;
  AuditReport report_;
  LoadedModel model_;
};

}  // namespace

const char* audit_verdict_name(AuditVerdict verdict) {
  return verdict == AuditVerdict::kGood ? "good" : verdict == AuditVerdict::kNote ? "note" : "fault";
}

int64_t AuditReport::faults() const { return std::ranges::count(lines, AuditVerdict::kFault, &AuditLine::verdict); }

Result<AuditReport> audit(Env& env, const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(std::string checkpoint, resolve_checkpoint(env, path));
  return Audit(env, std::move(checkpoint)).run();
}

}  // namespace engram
