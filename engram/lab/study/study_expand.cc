#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>

#include "engram/core/json.h"
#include "engram/core/progress.h"
#include "engram/data/synthetic_text.h"
#include "engram/data/token_shard.h"
#include "engram/lab/study/study.h"
#include "engram/text/tokenizer.h"
#include "engram/train/run_inputs.h"

namespace engram {
namespace {

constexpr int64_t kMostRuns = 10000;
constexpr double kRowsTolerance = 0.05;

using Setting = std::vector<std::pair<std::string, std::string>>;  // recipe key, value

struct AxisValue {
  std::optional<double> rho;
  int64_t rows = 0;
};

// One model of the plan: what the runs of different seeds and budgets share.
struct Model {
  Recipe recipe;
  ParameterCount parameters;
  std::optional<ParameterCount> base;  // what P_tot and P_act are to equal
  int64_t rows = 0;
};

Result<int64_t> rows_of(const ModelConfig& config) {
  if (config.memory == MemoryKind::kNone) return int64_t{0};
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<int64_t> rows, count_rows(config.engram));
  return std::accumulate(rows.begin(), rows.end(), int64_t{0});
}

// Tables that together come near to `wanted` rows.
Status size_tables_near(int64_t wanted, ModelConfig& config) {
  ENGRAM_ASSIGN_OR_RETURN(const int64_t rows, size_tables(static_cast<double>(wanted), config.engram));
  if (std::abs(static_cast<double>(rows - wanted)) <= kRowsTolerance * static_cast<double>(wanted)) return {};
  const int heads = config.num_memory_layers() * config.engram.rows_per_token();
  return invalid_argument("rows: the nearest tables for {} heads have {} rows, wanted {} within {} %", heads, rows,
                          wanted, kRowsTolerance * 100);
}

// Sets a width (a field of `config`) so that P_act is as near to `base` as whole widths allow. P_act grows with it.
Status match_active(const ParameterCount& base, const char* key, int& width, const ModelConfig& config) {
  const auto active = [&](int64_t value) -> Result<int64_t> {
    width = static_cast<int>(value);
    ENGRAM_ASSIGN_OR_RETURN(const ParameterCount count, count_parameters(config));
    return count.p_act;
  };
  int64_t low = 1, high = int64_t{1} << 24;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    ENGRAM_ASSIGN_OR_RETURN(const int64_t count, active(middle));
    (count <= base.p_act ? low : high) = middle;
  }
  ENGRAM_ASSIGN_OR_RETURN(const int64_t above, active(high));
  ENGRAM_ASSIGN_OR_RETURN(int64_t count, active(low));
  if (std::abs(above - base.p_act) < std::abs(count - base.p_act)) {
    ENGRAM_ASSIGN_OR_RETURN(count, active(high));
  }
  if (std::abs(static_cast<double>(count - base.p_act)) <= kActiveTolerance * static_cast<double>(base.p_act))
    return {};
  return invalid_argument("{} = {} gives P_act {}, wanted {} within {} %", key, width, count, base.p_act,
                          kActiveTolerance * 100);
}

Status check_total(const ParameterCount& base, const ParameterCount& got) {
  const double off = std::abs(static_cast<double>(got.p_tot - base.p_tot)) / static_cast<double>(base.p_tot);
  if (off <= kTotalTolerance) return {};
  return invalid_argument("P_tot is {}, wanted {} within {} %", got.p_tot, base.p_tot, kTotalTolerance * 100);
}

// The pure mixture of experts at rho = 1 that controls are measured against.
Result<Recipe> resolve_base(Recipe recipe, const Tokenizer& tokenizer) {
  recipe.allocation_rho = 1.0;
  return resolve_recipe(recipe, tokenizer);
}

// No experts: one dense feed-forward per block, as wide as P_act allows. P_tot is P_act then.
Result<Model> dense_model(const Recipe& recipe, const Tokenizer& tokenizer) {
  Model model;
  ENGRAM_ASSIGN_OR_RETURN(model.recipe, resolve_base(recipe, tokenizer));
  ENGRAM_ASSIGN_OR_RETURN(const ParameterCount base, count_parameters(model.recipe.model));
  ModelConfig& config = model.recipe.model;
  config.ffn = FfnKind::kDense;
  ENGRAM_RETURN_IF_ERROR(match_active(base, "intermediate_size", config.intermediate_size, config));
  ENGRAM_ASSIGN_OR_RETURN(model.parameters, count_parameters(config));
  return model;
}

// All experts of rho = 1, and a memory whose heads read one row each. A model that exists pays for nothing.
Result<Model> capacity_one_model(const Recipe& recipe, const Tokenizer& tokenizer) {
  Model model;
  ENGRAM_ASSIGN_OR_RETURN(model.recipe, resolve_base(recipe, tokenizer));
  ENGRAM_ASSIGN_OR_RETURN(const ParameterCount base, count_parameters(model.recipe.model));
  ModelConfig& config = model.recipe.model;
  config.memory = recipe.model.memory == MemoryKind::kOverEncoding ? recipe.model.memory : MemoryKind::kEngram;
  set_head_rows(config.engram, 1);
  model.recipe.train.control = ControlKind::kCapacityOne;
  const bool pays = recipe.train.start_from.empty();
  if (pays)
    ENGRAM_RETURN_IF_ERROR(
        match_active(base, "shared_expert_intermediate_size", config.shared_expert_intermediate_size, config));
  ENGRAM_ASSIGN_OR_RETURN(model.parameters, count_parameters(config));
  // The smallest tables still have a few rows a head; only one of them is ever read.
  model.rows = int64_t{config.num_memory_layers()} * config.engram.rows_per_token();
  const int64_t used = model.rows * config.engram.head_dim;
  model.parameters.p_tot -= model.parameters.table - used;
  model.parameters.p_sparse -= model.parameters.table - used;
  model.parameters.table = used;
  model.parameters.rho = 1.0;
  if (!pays) return model;
  model.base = base;
  ENGRAM_RETURN_IF_ERROR(check_total(base, model.parameters));
  return model;
}

// What the model of train.start_from has not.
Result<int64_t> added_parameters(const Recipe& recipe, const ParameterCount& count, int64_t lora) {
  if (recipe.train.start_from.empty()) return int64_t{0};
  ModelConfig bare = recipe.model;
  bare.memory = MemoryKind::kNone;
  ENGRAM_ASSIGN_OR_RETURN(const ParameterCount without, count_parameters(bare));
  return count.p_tot - without.p_tot + lora;
}

Result<Model> solve_model(Recipe recipe, const StudyGroup& group, const AxisValue& axis, const Tokenizer& tokenizer) {
  if (group.control == StudyControl::kDense) return dense_model(recipe, tokenizer);
  if (group.control == StudyControl::kCapacityOne) return capacity_one_model(recipe, tokenizer);
  if (axis.rho) recipe.allocation_rho = axis.rho;
  if (axis.rows > 0) {
    if (recipe.model.memory == MemoryKind::kNone) return invalid_argument("rows: model.memory is \"none\"");
    recipe.allocation_rho.reset();
    ENGRAM_RETURN_IF_ERROR(fill_vocabulary(tokenizer, /*has_memory=*/true, recipe.model));
    ENGRAM_RETURN_IF_ERROR(size_tables_near(axis.rows, recipe.model));
  }
  Model model;
  ENGRAM_ASSIGN_OR_RETURN(model.recipe, resolve_recipe(recipe, tokenizer));
  ENGRAM_ASSIGN_OR_RETURN(model.rows, rows_of(model.recipe.model));
  if (group.rows_times > 1) {
    if (model.rows == 0) return invalid_argument("rows_times: the model has no table");
    ENGRAM_RETURN_IF_ERROR(size_tables_near(model.rows * group.rows_times, model.recipe.model));
    ENGRAM_ASSIGN_OR_RETURN(model.rows, rows_of(model.recipe.model));
  }
  if (group.control == StudyControl::kShuffledHash) {
    if (model.rows == 0) return invalid_argument("control shuffled-hash: the model has no table to shuffle");
    model.recipe.train.control = ControlKind::kShuffledHash;
  }
  ENGRAM_ASSIGN_OR_RETURN(model.parameters, count_parameters(model.recipe.model));
  if (axis.rho && group.rows_times == 1) {
    ModelConfig base = recipe.model;  // at rho = 1
    base.vocab_size = model.recipe.model.vocab_size;
    base.memory = MemoryKind::kNone;
    ENGRAM_ASSIGN_OR_RETURN(model.base, count_parameters(base));
  }
  return model;
}

std::vector<Setting> sweep_settings(const StudyGroup& group) {
  std::vector<Setting> settings = {{}};
  for (const auto& [key, values] : group.sweep) {
    std::vector<Setting> longer;
    for (const Setting& setting : settings)
      for (const std::string& value : values) {
        longer.push_back(setting);
        longer.back().emplace_back(key, value);
      }
    settings = std::move(longer);
  }
  return settings;
}

std::vector<AxisValue> axis_values(const StudyGroup& group) {
  std::vector<AxisValue> values;
  for (const double rho : group.rho) values.push_back({rho, 0});
  for (const int64_t rows : group.rows) values.push_back({std::nullopt, rows});
  if (values.empty()) values.push_back({});
  return values;
}

// Small letters, digits, "." and "-": names that every file system takes.
std::string file_name(std::string_view text) {
  std::string name;
  for (const char c : text) {
    const char small = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    const bool good = (small >= 'a' && small <= 'z') || (small >= '0' && small <= '9') || small == '.';
    if (good)
      name += small;
    else if (!name.empty() && name.back() != '-')
      name += '-';
  }
  while (!name.empty() && name.back() == '-') name.pop_back();
  return name;
}

std::string model_name(const StudyGroup& group, const AxisValue& axis, const Setting& setting) {
  std::string name = file_name(group.name);
  if (axis.rho) name += fmt::format("-rho{}", *axis.rho);
  if (axis.rows > 0) name += fmt::format("-rows{}", axis.rows);
  for (const auto& [key, value] : setting)
    name += fmt::format("-{}", file_name(key.substr(key.find_last_of('.') + 1) + value));
  return name;
}

class Expander {
 public:
  Expander(Env& env, const Study& study, const ExpandOptions& options) : env_(env), study_(study), options_(options) {}

  Result<std::vector<StudyRun>> expand() {
    for (const StudyGroup& group : study_.groups)
      ENGRAM_RETURN_IF_ERROR(add_group(group).with_context(fmt::format("{}: group \"{}\"", study_.path, group.name)));
    std::map<std::string, int> names;
    for (const StudyRun& run : runs_)
      if (++names[run.name] > 1) return invalid_argument("{}: two runs are named {}", study_.path, run.name);
    return std::move(runs_);
  }

 private:
  Result<Recipe> load_recipe(const StudyGroup& group, const Setting& setting) {
    std::vector<std::string> overrides = study_.set;
    overrides.insert(overrides.end(), group.set.begin(), group.set.end());
    for (const auto& [key, value] : setting) overrides.push_back(key + "=" + value);
    overrides.insert(overrides.end(), options_.overrides.begin(), options_.overrides.end());
    ENGRAM_ASSIGN_OR_RETURN(Recipe recipe, Recipe::load(env_, study_.recipe, overrides));
    DataRecipe& data = recipe.data;
    if (data.synthetic_documents > 0) {
      const std::string& folder = options_.data_directory;
      if (!synthetic_made_)
        ENGRAM_RETURN_IF_ERROR(make_synthetic_corpus(env_, folder, data.synthetic_documents, data.synthetic_seed));
      synthetic_made_ = true;
      data.synthetic_documents = data.synthetic_seed = 0;
      data.tokenizer = join_path(folder, "tokenizer.json");
      data.train = {join_path(folder, "train.tokens")};
      data.validation = {join_path(folder, "validation.tokens")};
    }
    if (data.validation.empty())
      return invalid_argument("{}: data.validation is empty, a study compares on it", study_.recipe);
    return recipe;
  }

  // Files of the same names on another machine, or made anew, may hold another text.
  Result<std::string> describe_text(DataRecipe data) {
    fill_in_seed(data);
    std::string text = tokenizer_->vocabulary_digest();
    for (const std::vector<std::string>* files : file_lists(data)) {
      int64_t tokens = 0;
      for (const std::string& file : *files) {
        if (!env_.file_exists(file))
          return make_status(StatusCode::kFailedPrecondition,
                             "{}: no such file: scripts/corpus.sh --study makes the studies' text from packages, "
                             "scripts/long_context.sh that of long-context, scripts/retrofit_data.sh that of retrofit",
                             file);
        auto known = tokens_of_.find(file);
        if (known == tokens_of_.end()) {
          ENGRAM_ASSIGN_OR_RETURN(const TokenShard shard, TokenShard::open(env_, file));
          known = tokens_of_.emplace(file, shard.info().num_tokens).first;
        }
        tokens += known->second;
      }
      text += fmt::format(" {}", tokens);
    }
    return text;
  }

  Status add_group(const StudyGroup& group) {
    std::vector<std::pair<StudyRun, Model>> models;
    for (const Setting& setting : sweep_settings(group)) {
      ENGRAM_ASSIGN_OR_RETURN(Recipe recipe, load_recipe(group, setting));
      // The model is there already; which run's, its seed says.
      if (!group.after.empty()) recipe.train.start_from = join_path(options_.weights_directory, group.after);
      if (!tokenizer_ || tokenizer_path_ != recipe.data.tokenizer) {
        ENGRAM_ASSIGN_OR_RETURN(Tokenizer tokenizer, load_run_tokenizer(env_, recipe, recipe.data.tokenizer));
        tokenizer_ = std::make_unique<Tokenizer>(std::move(tokenizer));
        tokenizer_path_ = recipe.data.tokenizer;
      }
      for (const AxisValue& axis : axis_values(group)) {
        ENGRAM_ASSIGN_OR_RETURN(Model model, solve_model(recipe, group, axis, *tokenizer_));
        ENGRAM_RETURN_IF_ERROR(model.recipe.model.validate());
        StudyRun run;
        run.name = model_name(group, axis, setting);
        run.group = group.name;
        run.control = group.control;
        run.sweep = setting;
        run.rho = axis.rho;
        models.emplace_back(std::move(run), std::move(model));
      }
    }
    const int64_t seeds = options_.seeds > 0 ? options_.seeds : group.seeds;
    for (const int64_t budget : group.budgets)
      for (int64_t seed = 0; seed < seeds; ++seed)
        for (const auto& [run, model] : models) ENGRAM_RETURN_IF_ERROR(add_run(run, model, group.after, budget, seed));
    return {};
  }

  // The run of this seed in a group that has one model (Study::parse sees to it).
  Result<std::string> run_before(const std::string& group, int64_t seed) const {
    for (const StudyRun& run : runs_)
      if (run.group == group && run.seed == seed) return run.name;
    return invalid_argument("after: group {} has no run of seed {}", quote_text(group), seed);
  }

  Status add_run(StudyRun run, const Model& model, const std::string& after, int64_t budget, int64_t seed) {
    Recipe recipe = model.recipe;
    const int64_t step = recipe.data.batch_size * recipe.data.sequence_length * recipe.train.accumulation;
    recipe.train.steps = budget / step;
    recipe.train.stop_at = 0;
    if (recipe.train.steps < 1 && budget > 0)
      return invalid_argument("budgets: got {}, wanted at least one step of {} tokens", budget, step);
    if (budget == 0 && recipe.train.start_from.empty())
      return invalid_argument("budgets: got 0, wanted tokens to train a model that is not there yet");
    recipe.train.seed = recipe.data.seed = seed;
    ENGRAM_ASSIGN_OR_RETURN(run.text, describe_text(recipe.data));
    if (!after.empty()) {
      ENGRAM_ASSIGN_OR_RETURN(run.after, run_before(after, seed));
      recipe.train.start_from = join_path(options_.weights_directory, run.after);
    }
    run.name += fmt::format("-{}-s{}", file_name(format_count(static_cast<double>(budget))), seed);
    run.seed = seed;
    run.budget = recipe.train.steps * step;
    run.cost = count_training_cost(recipe);
    ENGRAM_ASSIGN_OR_RETURN(run.added, added_parameters(recipe, model.parameters, run.cost.lora));
    run.recipe = std::move(recipe);
    run.parameters = model.parameters;
    run.base = model.base;
    run.rows = model.rows;
    if (static_cast<int64_t>(runs_.size()) >= kMostRuns) return invalid_argument("more than {} runs", kMostRuns);
    runs_.push_back(std::move(run));
    return {};
  }

  Env& env_;
  const Study& study_;
  const ExpandOptions& options_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::string tokenizer_path_;
  std::map<std::string, int64_t> tokens_of_;  // by file
  bool synthetic_made_ = false;
  std::vector<StudyRun> runs_;
};

}  // namespace

Result<std::vector<StudyRun>> expand_study(Env& env, const Study& study, const ExpandOptions& options) {
  return Expander(env, study, options).expand();
}

std::string describe_runs(const std::vector<StudyRun>& runs) {
  std::string text = fmt::format("{:<34}{:>7}{:>10}{:>9}{:>7}{:>9}{:>8}{:>10}{:>10}{:>10}{:>6}\n", "model", "rho",
                                 "P_tot", "P_act", "ratio", "experts", "shared", "rows", "tokens", "FLOPs", "runs");
  for (size_t i = 0; i < runs.size(); ++i) {
    const StudyRun& run = runs[i];
    const auto same_model = [&](const StudyRun& other) {
      return other.budget == run.budget &&
             other.name.substr(0, other.name.rfind("-s")) == run.name.substr(0, run.name.rfind("-s"));
    };
    const auto first = std::find_if(runs.begin(), runs.end(), same_model);
    if (first != runs.begin() + static_cast<std::ptrdiff_t>(i)) continue;
    const ModelConfig& model = run.recipe.model;
    const bool experts = model.ffn == FfnKind::kMoe;
    text += fmt::format(
        "{:<34}{:>7.3f}{:>10}{:>9}{:>7.2f}{:>9}{:>8}{:>10}{:>10}{:>10.2e}{:>6}\n",
        run.name.substr(0, run.name.rfind("-s")), run.parameters.rho, run.parameters.p_tot, run.parameters.p_act,
        static_cast<double>(run.parameters.p_tot) / static_cast<double>(run.parameters.p_act),
        experts ? fmt::format("{}", model.n_routed_experts) : "-",
        experts ? fmt::format("{}", model.shared_expert_intermediate_size) : fmt::format("{}", model.intermediate_size),
        run.rows, run.budget, run.cost.flops_per_token * static_cast<double>(run.budget),
        std::count_if(runs.begin(), runs.end(), same_model));
  }
  return text;
}

}  // namespace engram
