// Recipe: everything one training run needs, read from a TOML file.
//
// A recipe is complete: `engram train recipes/smoke.toml --set train.steps=50`. Every key belongs to a struct that has
// its unit and default. Types are checked here, ranges here or by the struct, and an unknown key is an error that
// names the nearest known one. docs/recipes.md lists the keys. Torch-free, a plain value.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"
#include "engram/data/packing.h"
#include "engram/model/lora_config.h"
#include "engram/model/model_config.h"
#include "engram/model/parameter_role.h"
#include "engram/model/recompute.h"

namespace engram {

enum class DecayKind { kStep, kConstant, kLinear, kCosine, kWsd };
enum class AverageKind { kNone, kEma, kMean };
enum class TableStateKind { kElement, kRow };      // second moment of a table: per element, or one per row
enum class TablePlacement { kHost, kDevice };      // where table rows and their optimizer state live
enum class TableMomentum { kFp32, kBf16, kNone };  // first moment of a table; none: the gradient stands for it
enum class TrainDtype { kFp32, kBf16 };
enum class MatrixOptimizer { kMuon, kAdamW };
enum class SinkKind { kTensorBoard, kCsv };
enum class ControlKind { kNone, kShuffledHash, kCapacityOne };

// A part of the training text, and the share of all sequences that come from it.
struct SourceRecipe {
  std::vector<std::string> files;  // token shards
  double share = 0;
};

// A text that is measured document by document while a model trains.
struct ValidationSet {
  std::string name;
  std::vector<std::string> files;  // token shards
};

// Files are relative to the working directory. Either `tokenizer`, `train` or `sources`, and `validation`, or
// [data.synthetic].
struct DataRecipe {
  std::string tokenizer;                // a tokenizer.json
  std::vector<std::string> train;       // token shards
  std::vector<SourceRecipe> sources;    // in place of `train`
  std::vector<std::string> validation;  // token shards of whole documents; may be empty
  std::vector<ValidationSet> validation_sets;
  Packing packing = Packing::kStream;  // of training
  int64_t sequence_length = 256;       // T, tokens
  int64_t batch_size = 8;              // B, sequences of one micro-batch
  int64_t loader_threads = 1;          // 0: batches are assembled between steps
  int64_t seed = 0;                    // order of the windows
  // [data.synthetic]: a small artificial language, made under OUTPUT/data, with a byte-level tokenizer.
  int64_t synthetic_documents = 0;  // 0: no such section
  int64_t synthetic_seed = 0;

  std::vector<std::string> train_files() const;  // all of them, in order
};

struct OptimizerRecipe {
  MatrixOptimizer matrices = MatrixOptimizer::kMuon;  // of the blocks' matrices
  double muon_lr = 8e-3;                              // block matrices
  double adamw_lr = 4e-3;                             // embedding, head, norms, routers, hyper-connections, conv
  double table_lr_multiplier = 5.0;                   // table rows: times adamw_lr
  double weight_decay = 0.1;                          // decoupled; not for table rows
  double muon_momentum = 0.95;                        // Nesterov
  int64_t muon_ns_steps = 5;                          // Newton-Schulz iterations
  double adamw_beta1 = 0.9;                           // tables too
  double adamw_beta2 = 0.95;
  double adamw_eps = 1e-8;
  double clip_norm = 1.0;  // global gradient norm, row gradients included; 0: no clipping
  int64_t warmup_steps = 0;
  DecayKind decay = DecayKind::kStep;
  double decay_fraction = 0.4;  // of the steps, with DecayKind::kWsd: how many the decay to zero takes
  double min_lr_ratio = 0;      // what linear, cosine and wsd fall to, times the rate; step and constant do not read it
  TableStateKind table_state = TableStateKind::kElement;
  TableMomentum table_momentum = TableMomentum::kFp32;
  std::array<double, kParameterRoles> lr_factor = ones();  // by ParameterRole: times muon_lr or adamw_lr

  static constexpr std::array<double, kParameterRoles> ones() {
    std::array<double, kParameterRoles> factors{};
    factors.fill(1.0);
    return factors;
  }
};

struct TrainRecipe {
  int64_t steps = -1;                    // length of the schedule; required; 0: measure start_from
  int64_t stop_at = 0;                   // stop early here, with a checkpoint; 0: at `steps`
  std::string output;                    // directory; empty: runs/RECIPE
  std::string start_from;                // checkpoint whose weights and rows step 0 starts with; empty: random ones
  std::vector<ParameterRole> freeze;     // weights that stay as they are, and keep neither gradient nor state
  int64_t seed = 0;                      // initial weights, controls
  TrainDtype dtype = TrainDtype::kFp32;  // of the matrix products; dense weights are fp32 always
  TrainDtype frozen_dtype = TrainDtype::kFp32;  // of frozen projections in memory; bf16 needs dtype bf16
  Recompute recompute = Recompute::kNone;       // activations that a backward pass computes again; decides no number
  TrainDtype table_dtype = TrainDtype::kFp32;   // of table rows in memory; bf16: rounded at random
  std::string device = "cpu";                   // cpu or cuda
  TablePlacement table_placement = TablePlacement::kHost;
  int64_t threads = 0;             // of the arithmetic; 0: one per processor
  int64_t log_every = 100;         // steps between printed lines
  int64_t validate_every = 0;      // steps; 0: at the end only
  int64_t validation_batches = 0;  // 0: all of the validation text
  int64_t checkpoint_every = 0;    // steps; 0: at the end only
  int64_t keep_checkpoints = 2;    // newest ones that stay; 0: all
  double expert_bias_rate = 1e-3;  // loss-free balancing
  int64_t accumulation = 1;        // micro-batches of one step
  ControlKind control = ControlKind::kNone;
  int64_t max_skipped_steps = 0;             // in a row, whose loss or gradient is not finite; one more ends the run
  AverageKind average = AverageKind::kNone;  // of the weights over the steps, beside the weights
  double average_decay = 0.999;
  int64_t average_from = 0;                 // completed steps after which the average begins
  std::vector<std::string> sample_prompts;  // what the model is to continue now and then
  int64_t samples_every = 0;                // steps; 0: at the end only
  int64_t sample_tokens = 64;
  double sample_temperature = 0;
  bool shard_experts = false;     // several ranks share out the routed experts; decides no number
  int64_t exchange_timeout = 60;  // seconds that a rank waits for another one
};

struct MetricsRecipe {
  std::vector<SinkKind> sinks;   // beside metrics.jsonl
  int64_t histograms_every = 0;  // steps; 0: none
};

bool is_frozen(const TrainRecipe& train, ParameterRole role);

using RecipeEntry = std::pair<std::string, std::string>;  // dotted key, value as TOML text

struct Recipe {
  ModelConfig model;                     // what the tokenizer decides may still be open: see resolve_recipe()
  std::optional<double> allocation_rho;  // [model] then describes rho = 1
  DataRecipe data;
  OptimizerRecipe optimizer;
  LoraConfig lora;
  TrainRecipe train;
  MetricsRecipe metrics;

  // `overrides` are "dotted.key=value": a TOML value, or else a bare string. Later ones win.
  // kNotFound, kInvalidArgument: not TOML, unknown key, wrong type, out of range, missing; the message says where.
  static Result<Recipe> load(Env& env, const std::string& path, const std::vector<std::string>& overrides);
  static Result<Recipe> parse(const std::string& text, const std::string& name,
                              const std::vector<std::string>& overrides);

  // Every key in a fixed order, so equal recipes give equal bytes; parse(to_toml()) is the same recipe. Keys that
  // belong to one invocation (train.output, train.stop_at) stay out of it.
  std::string to_toml() const;
  std::vector<RecipeEntry> entries() const;
  // Keys whose value decides the numbers of a run and differs from `other`: "train.steps: 40, was 50". Keys that a
  // resumed run may change (output, stop_at, threads, intervals, loader_threads) are not compared.
  std::vector<std::string> differences(const Recipe& other) const;

  // model.engram.pad_token_id when the recipe does not name one.
  static constexpr int kPadFromTokenizer = -1;
};

// The learning-rate multiplier of step `step` (0-based) of `steps`: linear warm-up to 1; with DecayKind::kStep
// 0.316 from 80 % and 0.1 from 90 % of the steps on; kLinear falls from the end of the warm-up in a straight line that
// would reach min_lr_ratio at step `steps`, kCosine on half a cosine; kWsd is 1 until the last decay_fraction of the
// steps and falls in a straight line over them.
double schedule_multiplier(const OptimizerRecipe& optimizer, int64_t step, int64_t steps);

}  // namespace engram
