#include "engram/train/recipe.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numbers>
#include <set>

#include "engram/core/fields.h"
#include "engram/core/file_kind.h"
#include "engram/data/mixture.h"
#include "engram/model/io/config_file.h"
#include "engram/train/toml_fields.h"

namespace engram {
namespace {

constexpr int64_t kMaxCount = int64_t{1} << 40;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

const EnumNames<DecayKind> kDecayNames = {{DecayKind::kStep, "step"},
                                          {DecayKind::kConstant, "constant"},
                                          {DecayKind::kLinear, "linear"},
                                          {DecayKind::kCosine, "cosine"},
                                          {DecayKind::kWsd, "wsd"}};
const EnumNames<MatrixOptimizer> kMatrixOptimizerNames = {{MatrixOptimizer::kMuon, "muon"},
                                                          {MatrixOptimizer::kAdamW, "adamw"}};
const EnumNames<TableStateKind> kTableStateNames = {{TableStateKind::kElement, "element"},
                                                    {TableStateKind::kRow, "row"}};
const EnumNames<TableMomentum> kTableMomentumNames = {
    {TableMomentum::kFp32, "fp32"}, {TableMomentum::kBf16, "bf16"}, {TableMomentum::kNone, "none"}};
const EnumNames<TablePlacement> kPlacementNames = {{TablePlacement::kHost, "host"},
                                                   {TablePlacement::kDevice, "device"}};
const EnumNames<TrainDtype> kDtypeNames = {{TrainDtype::kFp32, "fp32"}, {TrainDtype::kBf16, "bf16"}};
const EnumNames<Recompute> kRecomputeNames = {
    {Recompute::kNone, "none"}, {Recompute::kAttention, "attention"}, {Recompute::kBlocks, "blocks"}};
const EnumNames<AverageKind> kAverageNames = {
    {AverageKind::kNone, "none"}, {AverageKind::kEma, "ema"}, {AverageKind::kMean, "mean"}};
const EnumNames<SinkKind> kSinkNames = {{SinkKind::kTensorBoard, "tensorboard"}, {SinkKind::kCsv, "csv"}};
const EnumNames<ControlKind> kControlNames = {{ControlKind::kNone, "none"},
                                              {ControlKind::kShuffledHash, "shuffled-hash"},
                                              {ControlKind::kCapacityOne, "capacity-1"}};
const EnumNames<ParameterRole> kRoleNames = {
    {ParameterRole::kBackbone, "backbone"}, {ParameterRole::kEmbedding, "embedding"},
    {ParameterRole::kHead, "head"},         {ParameterRole::kAttention, "attention"},
    {ParameterRole::kFfn, "ffn"},           {ParameterRole::kRouter, "router"},
    {ParameterRole::kNorm, "norm"},         {ParameterRole::kHyperConnection, "hyper_connection"},
    {ParameterRole::kLora, "lora"},         {ParameterRole::kMemory, "memory"}};
const EnumNames<Packing> kPackingNames = {{Packing::kStream, "stream"}, {Packing::kDocuments, "documents"}};
const EnumNames<std::string> kDeviceNames = {{"cpu", "cpu"}, {"cuda", "cuda"}};

// The one list of keys per section: reading, writing and comparing walk it.
template <typename Data, typename Visitor>
void visit_data(Data& data, Visitor&& visit) {
  visit("tokenizer", data.tokenizer);
  visit("train", data.train);
  visit("validation", data.validation);
  visit("packing", data.packing, kPackingNames);
  visit("sequence_length", data.sequence_length, 1, 1 << 20);
  visit("batch_size", data.batch_size, 1, 1 << 20);
  visit("loader_threads", data.loader_threads, 0, 256);
  visit("seed", data.seed, 0, std::numeric_limits<int64_t>::max());
}
template <typename Source, typename Visitor>
void visit_source(Source& source, Visitor&& visit) {
  visit("files", source.files);
  visit("share", source.share, 0, 1);
}
template <typename Set, typename Visitor>
void visit_validation_set(Set& set, Visitor&& visit) {
  visit("name", set.name);
  visit("files", set.files);
}
template <typename Data, typename Visitor>
void visit_synthetic(Data& data, Visitor&& visit) {
  visit("documents", data.synthetic_documents, 16, 1 << 20);
  visit("seed", data.synthetic_seed, 0, std::numeric_limits<int64_t>::max());
}
template <typename Optimizer, typename Visitor>
void visit_optimizer(Optimizer& optimizer, Visitor&& visit) {
  visit("matrices", optimizer.matrices, kMatrixOptimizerNames);
  visit("muon_lr", optimizer.muon_lr, 0, 1e3);
  visit("adamw_lr", optimizer.adamw_lr, 0, 1e3);
  visit("table_lr_multiplier", optimizer.table_lr_multiplier, 0, 1e6);
  visit("weight_decay", optimizer.weight_decay, 0, 1e3);
  visit("muon_momentum", optimizer.muon_momentum, 0, 0.999999);
  visit("muon_ns_steps", optimizer.muon_ns_steps, 1, 99);
  visit("adamw_beta1", optimizer.adamw_beta1, 0, 0.999999);
  visit("adamw_beta2", optimizer.adamw_beta2, 0, 0.999999);
  visit("adamw_eps", optimizer.adamw_eps, 1e-30, 1);
  visit("clip_norm", optimizer.clip_norm, 0, kInfinity);
  visit("warmup_steps", optimizer.warmup_steps, 0, kMaxCount);
  visit("decay", optimizer.decay, kDecayNames);
  visit("decay_fraction", optimizer.decay_fraction, 0, 1);
  visit("min_lr_ratio", optimizer.min_lr_ratio, 0, 1);
  visit("table_state", optimizer.table_state, kTableStateNames);
  visit("table_momentum", optimizer.table_momentum, kTableMomentumNames);
}
template <typename Factors, typename Visitor>
void visit_lr_factor(Factors& factors, Visitor&& visit) {
  for (const auto& [role, name] : kRoleNames)
    if (role != ParameterRole::kBackbone) visit(name, factors[static_cast<size_t>(role)], 0, 1e6);
}
template <typename Lora, typename Visitor>
void visit_lora(Lora& lora, Visitor&& visit) {
  visit("rank", lora.rank, 0, 1 << 16);
  visit("alpha", lora.alpha, 0, 1e6);
  visit("targets", lora.targets);
}
template <typename Train, typename Visitor>
void visit_train(Train& train, Visitor&& visit) {
  visit("steps", train.steps, 0, kMaxCount);
  visit("stop_at", train.stop_at, 0, kMaxCount);
  visit("output", train.output);
  visit("start_from", train.start_from);
  visit("freeze", train.freeze, kRoleNames);
  visit("seed", train.seed, 0, std::numeric_limits<int64_t>::max());
  visit("dtype", train.dtype, kDtypeNames);
  visit("recompute", train.recompute, kRecomputeNames);
  visit("frozen_dtype", train.frozen_dtype, kDtypeNames);
  visit("table_dtype", train.table_dtype, kDtypeNames);
  visit("device", train.device, kDeviceNames);
  visit("table_placement", train.table_placement, kPlacementNames);
  visit("threads", train.threads, 0, 1024);
  visit("log_every", train.log_every, 1, kMaxCount);
  visit("validate_every", train.validate_every, 0, kMaxCount);
  visit("validation_batches", train.validation_batches, 0, kMaxCount);
  visit("checkpoint_every", train.checkpoint_every, 0, kMaxCount);
  visit("keep_checkpoints", train.keep_checkpoints, 0, kMaxCount);
  visit("expert_bias_rate", train.expert_bias_rate, 0, 1);
  visit("accumulation", train.accumulation, 1, 1 << 16);
  visit("control", train.control, kControlNames);
  visit("max_skipped_steps", train.max_skipped_steps, 0, kMaxCount);
  visit("average", train.average, kAverageNames);
  visit("average_decay", train.average_decay, 0, 1);
  visit("average_from", train.average_from, 0, kMaxCount);
  visit("sample_prompts", train.sample_prompts);
  visit("samples_every", train.samples_every, 0, kMaxCount);
  visit("sample_tokens", train.sample_tokens, 1, 1 << 20);
  visit("sample_temperature", train.sample_temperature, 0, 100);
  visit("shard_experts", train.shard_experts);
  visit("exchange_timeout", train.exchange_timeout, 1, 86400);
}
template <typename Metrics, typename Visitor>
void visit_metrics(Metrics& metrics, Visitor&& visit) {
  visit("sinks", metrics.sinks, kSinkNames);
  visit("histograms_every", metrics.histograms_every, 0, kMaxCount);
}

// Where a key of this invocation, not of the numbers, may change between a run and its continuation.
bool may_change_on_resume(const std::string& key) {
  static const std::set<std::string> keys = {"train.output",           "train.stop_at",
                                             "train.threads",          "train.log_every",
                                             "train.validate_every",   "train.validation_batches",
                                             "train.checkpoint_every", "train.keep_checkpoints",
                                             "data.loader_threads",    "train.exchange_timeout",
                                             "train.shard_experts",    "train.recompute",
                                             "metrics.sinks",          "metrics.histograms_every",
                                             "train.sample_prompts",   "train.samples_every",
                                             "train.sample_tokens",    "train.sample_temperature",
                                             "train.max_skipped_steps"};
  return keys.contains(key);
}

// For a key without its section, or in another one: "; did you mean train.steps?", or nothing.
std::string full_key_hint(std::string_view word) {
  Recipe recipe;
  recipe.allocation_rho = 1.0;
  std::vector<std::string> words;
  std::map<std::string, std::string> keys;  // by their last words
  for (const auto& [key, value] : recipe.entries()) {
    const std::string& last = words.emplace_back(key.substr(key.find_last_of('.') + 1));
    keys[last] += (keys[last].empty() ? "" : " or ") + key;
  }
  const std::string* nearest = nearest_word(word, words);
  return nearest ? fmt::format("; did you mean {}?", keys[*nearest]) : std::string();
}

bool has_weights(const Recipe& recipe, ParameterRole role) {
  const ModelConfig& model = recipe.model;
  switch (role) {
    case ParameterRole::kHead: return !model.tie_word_embeddings;
    case ParameterRole::kRouter: return model.ffn == FfnKind::kMoe;
    case ParameterRole::kHyperConnection: return model.has_hyper_connections();
    case ParameterRole::kMemory: return model.memory != MemoryKind::kNone;
    case ParameterRole::kLora: return recipe.lora.rank > 0;
    default: return true;
  }
}

Status check_frozen(const Recipe& recipe, const std::string& name) {
  bool trains = false;
  for (const auto& [role, word] : kRoleNames) {
    if (std::ranges::count(recipe.train.freeze, role) > 0 && !has_weights(recipe, role))
      return invalid_argument("{}: train.freeze: got \"{}\", wanted roles that the model has weights of", name, word);
    trains =
        trains || (role != ParameterRole::kBackbone && has_weights(recipe, role) && !is_frozen(recipe.train, role));
  }
  if (trains) return {};
  return invalid_argument("{}: train.freeze: got a list of all weights, wanted some that are trained", name);
}

Status check_sources(const DataRecipe& data, const std::string& name) {
  double sum = data.sources.empty() ? 1 : 0;
  for (const SourceRecipe& source : data.sources) {
    if (source.files.empty() || source.share < 1e-6)
      return invalid_argument("{}: data.source: got {} files and a share of {}, wanted token shards and at least 1e-06",
                              name, source.files.size(), source.share);
    sum += source.share;
  }
  if (is_sum_of_shares(sum)) return {};
  return invalid_argument("{}: data.source: got shares whose sum is {}, wanted 1", name, sum);
}

Status check_validation_sets(const DataRecipe& data, const std::string& name) {
  std::set<std::string> names;
  for (const ValidationSet& set : data.validation_sets) {
    if (set.name.empty() || !names.insert(set.name).second)
      return invalid_argument("{}: data.validation_set: got the name \"{}\", wanted one name for each set", name,
                              set.name);
    if (set.files.empty())
      return invalid_argument("{}: data.validation_set: got no files for \"{}\", wanted token shards", name, set.name);
  }
  return {};
}

Status check_together(const Recipe& recipe, const std::string& name) {
  const DataRecipe& data = recipe.data;
  if (recipe.model.initializer_range == 0) {
    return invalid_argument("{}: model.initializer_range: got 0, wanted a positive number to draw weights with", name);
  }
  if (recipe.train.steps < 0) return invalid_argument("{}: train.steps: missing, wanted the number of steps", name);
  if (recipe.train.steps == 0 && recipe.train.start_from.empty())
    return invalid_argument("{}: train.steps: got 0, wanted at least 1 for a model that is not there yet", name);
  if (recipe.train.stop_at > recipe.train.steps)
    return invalid_argument("{}: train.stop_at: got {}, wanted at most train.steps {}", name, recipe.train.stop_at,
                            recipe.train.steps);
  if (data.synthetic_documents == 0) {
    if (data.tokenizer.empty())
      return invalid_argument("{}: data.tokenizer: missing, wanted a tokenizer.json (or [data.synthetic])", name);
    if (data.train.empty() && data.sources.empty())
      return invalid_argument("{}: data.train: missing, wanted token shards (or [data.synthetic])", name);
    if (!data.train.empty() && !data.sources.empty())
      return invalid_argument("{}: data.train: got it and data.source, wanted one of them", name);
  } else if (!data.tokenizer.empty() || !data.train_files().empty() || !data.validation.empty()) {
    return invalid_argument(
        "{}: [data.synthetic] makes its own tokenizer and shards: leave out data.tokenizer, "
        "data.train, data.source and data.validation",
        name);
  }
  if (data.sequence_length > recipe.model.max_position_embeddings)
    return invalid_argument("{}: data.sequence_length: got {}, wanted at most model.max_position_embeddings {}", name,
                            data.sequence_length, recipe.model.max_position_embeddings);
  if (recipe.train.table_placement == TablePlacement::kDevice && recipe.train.device == "cpu")
    return invalid_argument("{}: train.table_placement: got \"device\", wanted \"host\" when train.device is \"cpu\"",
                            name);
  if (recipe.train.frozen_dtype == TrainDtype::kBf16 && recipe.train.dtype != TrainDtype::kBf16)
    return invalid_argument("{}: train.frozen_dtype: got \"bf16\", wanted \"fp32\" when train.dtype is \"fp32\"", name);
  if (recipe.train.shard_experts && is_frozen(recipe.train, ParameterRole::kFfn))
    return invalid_argument("{}: train.shard_experts: got true, wanted false when train.freeze has the experts", name);
  if (recipe.train.shard_experts && recipe.model.ffn != FfnKind::kMoe)
    return invalid_argument("{}: train.shard_experts: got true, wanted false for a model without experts", name);
  ENGRAM_RETURN_IF_ERROR(check_frozen(recipe, name));
  ENGRAM_RETURN_IF_ERROR(check_sources(data, name));
  ENGRAM_RETURN_IF_ERROR(check_validation_sets(data, name));
  if (recipe.train.control != ControlKind::kNone && recipe.model.memory == MemoryKind::kNone)
    return invalid_argument(
        "{}: train.control: got a control of the memory, wanted \"none\" for a model without memory", name);
  return Status();
}

std::string default_output(const std::string& name) {
  const size_t slash = name.find_last_of('/');
  std::string stem = slash == std::string::npos ? name : name.substr(slash + 1);
  if (const size_t dot = stem.find_last_of('.'); dot != std::string::npos && dot > 0) stem.resize(dot);
  return "runs/" + stem;
}

Result<TomlDocument> read_document(const std::string& text, const std::string& name,
                                   const std::vector<std::string>& overrides) {
  ENGRAM_ASSIGN_OR_RETURN(TomlDocument document, TomlDocument::parse(text, name));
  for (const std::string& assignment : overrides) ENGRAM_RETURN_IF_ERROR(document.set(assignment));
  if (document.root.contains("study"))
    return invalid_argument("{}: got a study, wanted a recipe; `engram lab` runs studies", name);
  document.source.hint = full_key_hint;
  return document;
}

// What a recipe leaves open when it continues a model that is there.
Result<Recipe> open_values(Env& env, const TomlDocument& document) {
  Recipe values;
  values.model.engram.pad_token_id = Recipe::kPadFromTokenizer;
  std::string start;
  Fields root(document.root, document.source);
  root.section("train")("start_from", start);
  if (start.empty()) return values;
  const Result<std::string> folder = resolve_checkpoint(env, start);
  if (!folder.ok()) return values;  // said when the run looks for the weights
  ENGRAM_ASSIGN_OR_RETURN(const CheckpointConfig base, read_checkpoint_config(env, join_path(*folder, kConfigFile)));
  values.model = base.config;
  if (base.config.memory == MemoryKind::kNone) values.model.engram.pad_token_id = Recipe::kPadFromTokenizer;
  if (!root.section("data").find("synthetic")) values.data.tokenizer = join_path(*folder, kTokenizerFile);
  return values;
}

Result<Recipe> read_recipe(const TomlDocument& document, const std::string& name, Recipe recipe) {
  Fields root(document.root, document.source);
  Fields allocation = root.section("allocation"), data = root.section("data"), synthetic = data.section("synthetic"),
         optimizer = root.section("optimizer"), lr_factor = optimizer.section("lr_factor"), lora = root.section("lora"),
         train = root.section("train"), metrics = root.section("metrics"), model = root.section("model");
  ENGRAM_RETURN_IF_ERROR(root.finish());

  ENGRAM_RETURN_IF_ERROR(recipe.model.read(model));
  if (root.find("allocation")) recipe.allocation_rho = 1.0;
  allocation("rho", recipe.allocation_rho, 0, 1);
  visit_data(recipe.data, data);
  for (Fields& section : data.sections("source")) {
    visit_source(recipe.data.sources.emplace_back(), section);
    ENGRAM_RETURN_IF_ERROR(section.finish());
  }
  for (Fields& section : data.sections("validation_set")) {
    visit_validation_set(recipe.data.validation_sets.emplace_back(), section);
    ENGRAM_RETURN_IF_ERROR(section.finish());
  }
  if (data.find("synthetic")) recipe.data.synthetic_documents = 1000;
  visit_synthetic(recipe.data, synthetic);
  visit_optimizer(recipe.optimizer, optimizer);
  visit_lr_factor(recipe.optimizer.lr_factor, lr_factor);
  if (root.find("lora")) recipe.lora.rank = 8;
  visit_lora(recipe.lora, lora);
  visit_train(recipe.train, train);
  visit_metrics(recipe.metrics, metrics);
  for (const Fields* section : {&allocation, &data, &synthetic, &optimizer, &lr_factor, &lora, &train, &metrics})
    ENGRAM_RETURN_IF_ERROR(section->finish());
  if (recipe.train.output.empty()) recipe.train.output = default_output(name);

  ENGRAM_RETURN_IF_ERROR(check_together(recipe, name));
  return recipe;
}

}  // namespace

bool is_frozen(const TrainRecipe& train, ParameterRole role) {
  return std::ranges::any_of(train.freeze, [role](ParameterRole frozen) {
    return frozen == role ||
           (frozen == ParameterRole::kBackbone && role != ParameterRole::kLora && role != ParameterRole::kMemory);
  });
}

std::vector<std::string> DataRecipe::train_files() const {
  std::vector<std::string> files = train;
  for (const SourceRecipe& source : sources) files.insert(files.end(), source.files.begin(), source.files.end());
  return files;
}

Result<Recipe> Recipe::load(Env& env, const std::string& path, const std::vector<std::string>& overrides) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, env.read_file(path, {.max_bytes = int64_t{16} << 20}));
  ENGRAM_RETURN_IF_ERROR(check_not_foreign(text, path));
  ENGRAM_ASSIGN_OR_RETURN(const TomlDocument document, read_document(text, path, overrides));
  ENGRAM_ASSIGN_OR_RETURN(Recipe values, open_values(env, document));
  return read_recipe(document, path, std::move(values));
}

Result<Recipe> Recipe::parse(const std::string& text, const std::string& name,
                             const std::vector<std::string>& overrides) {
  ENGRAM_ASSIGN_OR_RETURN(const TomlDocument document, read_document(text, name, overrides));
  Recipe values;
  values.model.engram.pad_token_id = kPadFromTokenizer;
  return read_recipe(document, name, std::move(values));
}

std::vector<RecipeEntry> Recipe::entries() const {
  nlohmann::ordered_json root;
  nlohmann::ordered_json& model_json = root["model"] = model.to_json();
  if (model.vocab_size == 0) model_json.erase("vocab_size");
  for (const char* key : {"compressed_vocab_size", "unigram_vocab_size"})
    if (model.engram.compressed_vocab_size == 0) model_json["engram"].erase(key);
  for (const char* key : {"pad_token_id", "eos_token_id"})
    if (model.engram.pad_token_id == kPadFromTokenizer) model_json["engram"].erase(key);
  if (allocation_rho) root["allocation"]["rho"] = *allocation_rho;
  nlohmann::ordered_json& data_json = root["data"];
  visit_data(data, FieldWriter(data_json));
  if (data.synthetic_documents > 0) {
    for (const char* key : {"tokenizer", "train", "validation"}) data_json.erase(key);
    visit_synthetic(data, FieldWriter(data_json["synthetic"]));
  }
  if (!data.sources.empty()) data_json.erase("train");
  for (const SourceRecipe& source : data.sources) visit_source(source, FieldWriter(data_json["source"].emplace_back()));
  for (const ValidationSet& set : data.validation_sets)
    visit_validation_set(set, FieldWriter(data_json["validation_set"].emplace_back()));
  visit_optimizer(optimizer, FieldWriter(root["optimizer"]));
  if (optimizer.lr_factor != OptimizerRecipe::ones())
    visit_lr_factor(optimizer.lr_factor, FieldWriter(root["optimizer"]["lr_factor"]));
  if (lora.rank > 0) visit_lora(lora, FieldWriter(root["lora"]));
  visit_train(train, FieldWriter(root["train"]));
  visit_metrics(metrics, FieldWriter(root["metrics"]));
  return toml_entries(root);
}

std::string Recipe::to_toml() const {
  std::string text = "# A resolved recipe: every key, as `engram train` used it.\n";
  std::string section;
  for (const auto& [key, value] : entries()) {
    if (key == "train.output" || key == "train.stop_at") continue;
    const size_t dot = key.find_last_of('.');
    if (key.substr(0, dot) != section) {
      section = key.substr(0, dot);
      const bool is_element = section.ends_with(']');  // of an array of tables: section[0]
      text += is_element ? fmt::format("\n[[{}]]\n", section.substr(0, section.find_last_of('[')))
                         : fmt::format("\n[{}]\n", section);
    }
    text += fmt::format("{} = {}\n", key.substr(dot + 1), value);
  }
  return text;
}

std::vector<std::string> Recipe::differences(const Recipe& other) const {
  std::map<std::string, std::string> theirs;
  for (auto& [key, value] : other.entries()) theirs.emplace(key, value);
  std::vector<std::string> found;
  for (const auto& [key, value] : entries()) {
    auto match = theirs.find(key);
    const std::string old = match == theirs.end() ? "absent" : match->second;
    if (match != theirs.end()) theirs.erase(match);
    if (old != value && !may_change_on_resume(key)) found.push_back(fmt::format("{}: {}, was {}", key, value, old));
  }
  for (const auto& [key, value] : theirs)
    if (!may_change_on_resume(key)) found.push_back(fmt::format("{}: absent, was {}", key, value));
  return found;
}

double schedule_multiplier(const OptimizerRecipe& optimizer, int64_t step, int64_t steps) {
  double multiplier = 1;
  if (step < optimizer.warmup_steps)
    multiplier = static_cast<double>(step + 1) / static_cast<double>(optimizer.warmup_steps);
  if (optimizer.decay == DecayKind::kStep) {
    // Integers: 80 % of 40 steps is step 32 exactly.
    if (step * 10 >= steps * 9) return multiplier * 0.1;
    if (step * 10 >= steps * 8) return multiplier * 0.316;
    return multiplier;
  }
  if (optimizer.decay == DecayKind::kConstant) return multiplier;
  const int64_t length = optimizer.decay == DecayKind::kWsd
                             ? std::llround(optimizer.decay_fraction * static_cast<double>(steps))
                             : std::max<int64_t>(0, steps - optimizer.warmup_steps);
  if (steps - step >= length) return multiplier;
  double left = static_cast<double>(steps - step) / static_cast<double>(length);
  if (optimizer.decay == DecayKind::kCosine) left = (1 - std::cos(std::numbers::pi * left)) / 2;
  return multiplier * (optimizer.min_lr_ratio + (1 - optimizer.min_lr_ratio) * left);
}

}  // namespace engram
