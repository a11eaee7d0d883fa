#include "engram/train/recipe.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "engram/core/file_kind.h"
#include "engram/core/json.h"
#include "engram/train/toml_fields.h"

namespace engram {
namespace {

constexpr int64_t kMaxCount = int64_t{1} << 40;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

const EnumNames<DecayKind> kDecayNames = {{DecayKind::kStep, "step"},
                                          {DecayKind::kConstant, "constant"},
                                          {DecayKind::kLinear, "linear"},
                                          {DecayKind::kWsd, "wsd"}};
const EnumNames<TableStateKind> kTableStateNames = {{TableStateKind::kElement, "element"},
                                                    {TableStateKind::kRow, "row"}};
const EnumNames<TablePlacement> kPlacementNames = {{TablePlacement::kHost, "host"},
                                                   {TablePlacement::kDevice, "device"}};
const EnumNames<TrainDtype> kDtypeNames = {{TrainDtype::kFp32, "fp32"}, {TrainDtype::kBf16, "bf16"}};
const EnumNames<ControlKind> kControlNames = {{ControlKind::kNone, "none"},
                                              {ControlKind::kShuffledHash, "shuffled-hash"},
                                              {ControlKind::kCapacityOne, "capacity-1"}};
const EnumNames<std::string> kDeviceNames = {{"cpu", "cpu"}, {"cuda", "cuda"}};

// The one list of keys per section: reading, writing, comparing and the check for unknown keys all walk it.
template <typename Data, typename Visitor>
void visit_data(Data& data, Visitor& visit) {
  visit.text("tokenizer", data.tokenizer);
  visit.texts("train", data.train);
  visit.texts("validation", data.validation);
  visit.integer("sequence_length", data.sequence_length, 1, 1 << 20);
  visit.integer("batch_size", data.batch_size, 1, 1 << 20);
  visit.integer("loader_threads", data.loader_threads, 0, 256);
  visit.integer("seed", data.seed, 0, std::numeric_limits<int64_t>::max());
  visit.section("synthetic");
}
template <typename Data, typename Visitor>
void visit_synthetic(Data& data, Visitor& visit) {
  visit.integer("documents", data.synthetic_documents, 16, 1 << 20);
  visit.integer("seed", data.synthetic_seed, 0, std::numeric_limits<int64_t>::max());
}
template <typename Optimizer, typename Visitor>
void visit_optimizer(Optimizer& optimizer, Visitor& visit) {
  visit.number("muon_lr", optimizer.muon_lr, 0, 1e3);
  visit.number("adamw_lr", optimizer.adamw_lr, 0, 1e3);
  visit.number("table_lr_multiplier", optimizer.table_lr_multiplier, 0, 1e6);
  visit.number("weight_decay", optimizer.weight_decay, 0, 1e3);
  visit.number("muon_momentum", optimizer.muon_momentum, 0, 0.999999);
  visit.integer("muon_ns_steps", optimizer.muon_ns_steps, 1, 99);
  visit.number("adamw_beta1", optimizer.adamw_beta1, 0, 0.999999);
  visit.number("adamw_beta2", optimizer.adamw_beta2, 0, 0.999999);
  visit.number("adamw_eps", optimizer.adamw_eps, 1e-30, 1);
  visit.number("clip_norm", optimizer.clip_norm, 0, kInfinity);
  visit.integer("warmup_steps", optimizer.warmup_steps, 0, kMaxCount);
  visit.choice("decay", optimizer.decay, kDecayNames);
  visit.number("decay_fraction", optimizer.decay_fraction, 0, 1);
  visit.choice("table_state", optimizer.table_state, kTableStateNames);
}
template <typename Train, typename Visitor>
void visit_train(Train& train, Visitor& visit) {
  visit.integer("steps", train.steps, 1, kMaxCount);
  visit.integer("stop_at", train.stop_at, 0, kMaxCount);
  visit.text("output", train.output);
  visit.text("start_from", train.start_from);
  visit.integer("seed", train.seed, 0, std::numeric_limits<int64_t>::max());
  visit.choice("dtype", train.dtype, kDtypeNames);
  visit.choice("device", train.device, kDeviceNames);
  visit.choice("table_placement", train.table_placement, kPlacementNames);
  visit.integer("threads", train.threads, 0, 1024);
  visit.integer("log_every", train.log_every, 1, kMaxCount);
  visit.integer("validate_every", train.validate_every, 0, kMaxCount);
  visit.integer("validation_batches", train.validation_batches, 0, kMaxCount);
  visit.integer("checkpoint_every", train.checkpoint_every, 0, kMaxCount);
  visit.integer("keep_checkpoints", train.keep_checkpoints, 0, kMaxCount);
  visit.number("expert_bias_rate", train.expert_bias_rate, 0, 1);
  visit.integer("accumulation", train.accumulation, 1, 1 << 16);
  visit.choice("control", train.control, kControlNames);
  visit.integer("exchange_timeout", train.exchange_timeout, 1, 86400);
}

// Where a key of this invocation, not of the numbers, may change between a run and its continuation.
bool may_change_on_resume(const std::string& key) {
  static const std::set<std::string> keys = {"train.output",           "train.stop_at",
                                             "train.threads",          "train.log_every",
                                             "train.validate_every",   "train.validation_batches",
                                             "train.checkpoint_every", "train.keep_checkpoints",
                                             "data.loader_threads",    "train.exchange_timeout"};
  return keys.contains(key);
}

// The table of a section, null when absent.
Result<const toml::table*> section_of(const toml::table* parent, const std::string& key, const std::string& name) {
  const toml::node* node = parent ? parent->get(key) : nullptr;
  if (!node) return static_cast<const toml::table*>(nullptr);
  if (const toml::table* table = node->as_table()) return table;
  return invalid_argument("{}: {}: wanted a section [{}]", location_of(*node, name), key, key);
}

// For a key without its section, or in another one: "; did you mean train.steps?", or nothing.
std::string full_key_suggestion(std::string_view word) {
  Recipe recipe;
  recipe.allocation_rho = 1.0;
  std::set<std::string> words;
  std::map<std::string, std::string> keys;  // by their last words
  for (const auto& [key, value] : recipe.entries()) {
    const std::string last = key.substr(key.find_last_of('.') + 1);
    words.insert(last);
    keys[last] += (keys[last].empty() ? "" : " or ") + key;
  }
  const std::string* best = nearest_word(word, words);
  return best ? fmt::format("; did you mean {}?", keys[*best]) : std::string();
}

// Names an unknown [model] key with its line and nearest neighbour; ModelConfig::from_json does the rest.
Status check_model_keys(const toml::table& table, const nlohmann::ordered_json& known_json, const std::string& prefix,
                        const std::string& name) {
  std::set<std::string> known;
  for (const auto& [key, value] : known_json.items()) known.insert(key);
  for (auto&& [key, node] : table) {
    const std::string text(key.str());
    if (!known.contains(text)) {
      std::string hint = suggestion(text, known, prefix);
      if (hint.empty()) hint = full_key_suggestion(text);
      return invalid_argument("{}: unknown key {}{}", location_of(node, name), quote_text(prefix + "." + text), hint);
    }
    if (known_json[text].is_object() && node.is_table())
      ENGRAM_RETURN_IF_ERROR(check_model_keys(*node.as_table(), known_json[text], prefix + "." + text, name));
  }
  return Status();
}

Status read_model(const toml::table* table, const std::string& name, ModelConfig& model) {
  const toml::table empty;
  if (!table) table = &empty;
  ENGRAM_RETURN_IF_ERROR(check_model_keys(*table, ModelConfig().to_json(), "model", name));
  ENGRAM_ASSIGN_OR_RETURN(nlohmann::json json, toml_to_json(*table, name));
  ENGRAM_ASSIGN_OR_RETURN(model, ModelConfig::from_json(json, name + ": [model]"));
  const toml::table* engram = (*table)["engram"].as_table();
  if (!engram || !engram->contains("pad_token_id")) model.engram.pad_token_id = Recipe::kPadFromTokenizer;
  return Status();
}

Status check_together(const Recipe& recipe, const std::string& name) {
  const DataRecipe& data = recipe.data;
  if (recipe.model.initializer_range == 0) {
    return invalid_argument("{}: model.initializer_range: got 0, wanted a positive number to draw weights with", name);
  }
  if (recipe.train.steps == 0) return invalid_argument("{}: train.steps: missing, wanted the number of steps", name);
  if (recipe.train.stop_at > recipe.train.steps)
    return invalid_argument("{}: train.stop_at: got {}, wanted at most train.steps {}", name, recipe.train.stop_at,
                            recipe.train.steps);
  if (data.synthetic_documents == 0) {
    if (data.tokenizer.empty())
      return invalid_argument("{}: data.tokenizer: missing, wanted a tokenizer.json (or [data.synthetic])", name);
    if (data.train.empty())
      return invalid_argument("{}: data.train: missing, wanted token shards (or [data.synthetic])", name);
  } else if (!data.tokenizer.empty() || !data.train.empty() || !data.validation.empty()) {
    return invalid_argument(
        "{}: [data.synthetic] makes its own tokenizer and shards: leave out data.tokenizer, "
        "data.train and data.validation",
        name);
  }
  if (data.sequence_length > recipe.model.max_position_embeddings)
    return invalid_argument("{}: data.sequence_length: got {}, wanted at most model.max_position_embeddings {}", name,
                            data.sequence_length, recipe.model.max_position_embeddings);
  if (recipe.train.table_placement == TablePlacement::kDevice && recipe.train.device == "cpu")
    return invalid_argument("{}: train.table_placement: got \"device\", wanted \"host\" when train.device is \"cpu\"",
                            name);
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

}  // namespace

Result<Recipe> Recipe::load(Env& env, const std::string& path, const std::vector<std::string>& overrides) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, env.read_file(path, {.max_bytes = int64_t{16} << 20}));
  ENGRAM_RETURN_IF_ERROR(check_not_foreign(text, path));
  return parse(text, path, overrides);
}

Result<Recipe> Recipe::parse(const std::string& text, const std::string& name,
                             const std::vector<std::string>& overrides) {
  ENGRAM_ASSIGN_OR_RETURN(toml::table root, parse_toml(text, name));
  for (const std::string& assignment : overrides) ENGRAM_RETURN_IF_ERROR(apply_override(root, assignment));
  if (root.contains("study"))
    return invalid_argument("{}: got a study, wanted a recipe; `engram lab` runs studies", name);
  TomlReader sections(&root, "", name);
  for (const char* section : {"model", "allocation", "data", "optimizer", "train"}) sections.section(section);
  ENGRAM_RETURN_IF_ERROR(sections.finish(full_key_suggestion));

  Recipe recipe;
  ENGRAM_ASSIGN_OR_RETURN(const toml::table* model, section_of(&root, "model", name));
  ENGRAM_RETURN_IF_ERROR(read_model(model, name, recipe.model));

  ENGRAM_ASSIGN_OR_RETURN(const toml::table* allocation, section_of(&root, "allocation", name));
  if (allocation) {
    TomlReader reader(allocation, "allocation", name);
    recipe.allocation_rho = 1.0;
    reader.number("rho", *recipe.allocation_rho, 0, 1);
    ENGRAM_RETURN_IF_ERROR(reader.finish(full_key_suggestion));
  }

  ENGRAM_ASSIGN_OR_RETURN(const toml::table* data, section_of(&root, "data", name));
  TomlReader data_reader(data, "data", name);
  visit_data(recipe.data, data_reader);
  ENGRAM_RETURN_IF_ERROR(data_reader.finish(full_key_suggestion));
  ENGRAM_ASSIGN_OR_RETURN(const toml::table* synthetic, section_of(data, "synthetic", name));
  if (synthetic) {
    recipe.data.synthetic_documents = 1000;
    TomlReader reader(synthetic, "data.synthetic", name);
    visit_synthetic(recipe.data, reader);
    ENGRAM_RETURN_IF_ERROR(reader.finish(full_key_suggestion));
  }

  ENGRAM_ASSIGN_OR_RETURN(const toml::table* optimizer, section_of(&root, "optimizer", name));
  TomlReader optimizer_reader(optimizer, "optimizer", name);
  visit_optimizer(recipe.optimizer, optimizer_reader);
  ENGRAM_RETURN_IF_ERROR(optimizer_reader.finish(full_key_suggestion));

  ENGRAM_ASSIGN_OR_RETURN(const toml::table* train, section_of(&root, "train", name));
  TomlReader train_reader(train, "train", name);
  visit_train(recipe.train, train_reader);
  ENGRAM_RETURN_IF_ERROR(train_reader.finish(full_key_suggestion));
  if (recipe.train.output.empty()) recipe.train.output = default_output(name);

  ENGRAM_RETURN_IF_ERROR(check_together(recipe, name));
  return recipe;
}

std::vector<RecipeEntry> Recipe::entries() const {
  std::vector<RecipeEntry> entries;
  nlohmann::ordered_json model_json = model.to_json();
  if (model.vocab_size == 0) model_json.erase("vocab_size");
  nlohmann::ordered_json& engram_json = model_json["engram"];
  if (model.engram.compressed_vocab_size == 0) engram_json.erase("compressed_vocab_size");
  if (model.engram.pad_token_id == kPadFromTokenizer) engram_json.erase("pad_token_id");
  TomlWriter(entries, "model").json(model_json);
  if (allocation_rho) entries.emplace_back("allocation.rho", toml_text(*allocation_rho));
  TomlWriter data_writer(entries, "data");
  if (data.synthetic_documents == 0) {
    visit_data(data, data_writer);
  } else {
    DataRecipe shape = data;
    std::vector<RecipeEntry> all;
    TomlWriter writer(all, "data");
    visit_data(shape, writer);
    for (RecipeEntry& entry : all)
      if (entry.first != "data.tokenizer" && entry.first != "data.train" && entry.first != "data.validation")
        entries.push_back(std::move(entry));
    TomlWriter synthetic_writer(entries, "data.synthetic");
    visit_synthetic(data, synthetic_writer);
  }
  TomlWriter optimizer_writer(entries, "optimizer");
  visit_optimizer(optimizer, optimizer_writer);
  TomlWriter train_writer(entries, "train");
  visit_train(train, train_writer);
  return entries;
}

std::string Recipe::to_toml() const {
  std::string text = "# A resolved recipe: every key, as `engram train` used it.\n";
  std::string section;
  for (const auto& [key, value] : entries()) {
    if (key == "train.output" || key == "train.stop_at") continue;
    const size_t dot = key.find_last_of('.');
    if (key.substr(0, dot) != section) {
      section = key.substr(0, dot);
      text += fmt::format("\n[{}]\n", section);
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
  const int64_t length = optimizer.decay == DecayKind::kLinear
                             ? std::max<int64_t>(0, steps - optimizer.warmup_steps)
                             : std::llround(optimizer.decay_fraction * static_cast<double>(steps));
  if (steps - step >= length) return multiplier;
  return multiplier * static_cast<double>(steps - step) / static_cast<double>(length);
}

}  // namespace engram
