#include "bench/train_bench.h"

#include <ATen/record_function.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <functional>

#include "bench/process.h"
#include "engram/core/json.h"
#include "engram/core/machine.h"
#include "engram/core/progress.h"
#include "engram/model/layers/engram.h"
#include "engram/train/learner.h"
#include "engram/train/phase_profiler.h"
#include "engram/train/trainable_table.h"

namespace engram::bench {
namespace {

using Json = nlohmann::ordered_json;
constexpr int kWarmUp = 5;

double median_seconds(int steps, const std::function<void()>& step) {
  for (int i = 0; i < kWarmUp; ++i) step();
  std::vector<double> seconds;
  for (int i = 0; i < steps; ++i) {
    const double start = now_seconds();
    step();
    seconds.push_back(now_seconds() - start);
  }
  return median(seconds);
}

// What the PyTorch side needs to build the same model.
Json job_of(const RunInputs& inputs, int threads, int steps) {
  Json rows = Json::array();
  for (const NgramHasher& layer : inputs.hasher.layers()) rows.push_back(layer.num_rows());
  return {
      {"model", inputs.recipe.model.to_json()},
      {"num_rows", rows},
      {"batch_size", inputs.recipe.data.batch_size},
      {"sequence_length", inputs.recipe.data.sequence_length},
      {"threads", threads},
      {"dtype", inputs.recipe.train.dtype == TrainDtype::kBf16 ? "bf16" : "fp32"},
      {"warmup", kWarmUp},
      {"steps", steps},
      {"optimizer", {{"muon_lr", inputs.recipe.optimizer.muon_lr}, {"adamw_lr", inputs.recipe.optimizer.adamw_lr}}}};
}

// Batches come from the loader, in the timed region, as they do in training.
Result<double> time_training(const RunInputs& inputs, int steps, std::map<std::string, double>& phases) {
  DataLoaderOptions loading;
  loading.batch_size = inputs.recipe.data.batch_size;
  loading.sequence_length = inputs.recipe.data.sequence_length;
  ENGRAM_ASSIGN_OR_RETURN(auto loader, DataLoader::create(RunInputs::pointers(inputs.train), inputs.hasher, loading));
  const std::unique_ptr<Communicator> alone = Communicator::alone();
  Learner learner(inputs, *alone);
  int64_t step = 0;
  Status status;
  const auto one_step = [&] {
    auto batch = [&] {
      RECORD_USER_SCOPE("phase:data");
      return loader->next();
    }();
    if (!batch.ok()) {
      status = batch.status();
      return;
    }
    learner.step(std::span(&batch.value(), 1), ++step, 1.0);
  };
  const double seconds = median_seconds(steps, one_step);
  PhaseProfiler profiler;  // after the timed steps: it costs a little
  profiler.start();
  for (int i = 0; i < steps; ++i) one_step();
  profiler.stop();
  phases = profiler.seconds();
  ENGRAM_RETURN_IF_ERROR(status);
  return seconds;
}

// Row gather, projection, gates and convolution of one layer, forward and backward.
Result<double> time_engram_module(const RunInputs& inputs, int steps) {
  const ModelConfig& config = inputs.recipe.model;
  if (!config.memory_in_blocks()) return invalid_argument("bench train: the recipe has no Engram layer");
  DataLoaderOptions loading;
  loading.batch_size = inputs.recipe.data.batch_size;
  loading.sequence_length = inputs.recipe.data.sequence_length;
  ENGRAM_ASSIGN_OR_RETURN(auto loader, DataLoader::create(RunInputs::pointers(inputs.train), inputs.hasher, loading));
  ENGRAM_ASSIGN_OR_RETURN(const Batch batch, loader->next());
  const int64_t B = batch.batch_size, T = batch.sequence_length;
  Engram module(config, 0);
  TrainableTable table(torch::randn({inputs.hasher.layer(0).num_rows(), config.engram.head_dim}), torch::kCPU, {});
  const auto hidden = torch::randn({B, T, config.hc_mult, config.hidden_size}, torch::requires_grad());
  const auto gradient = torch::randn_like(hidden);
  const auto reach = torch::arange(T, torch::kInt32).expand({B, T}).contiguous();
  module->train();
  return median_seconds(steps, [&] {
    const MemoryRows rows = table.gather(batch.row_ids.layer(0), B, T);
    module->forward(hidden, rows, reach).backward(gradient);
    hidden.mutable_grad() = torch::Tensor();
    module->zero_grad(true);
  });
}

// Runs commands at once; the JSON object that each prints.
Result<std::vector<Json>> run_processes(const std::vector<std::string>& commands) {
  ENGRAM_ASSIGN_OR_RETURN(const auto outputs, run_commands(commands));
  std::vector<Json> results;
  for (const std::string& output : outputs) {
    ENGRAM_RETURN_IF_ERROR(parse_json(output, "output of a benchmark process").status());
    results.push_back(Json::parse(output));
  }
  return results;
}

double total(const std::vector<Json>& results, const char* key) {
  double sum = 0;
  for (const Json& result : results) sum += result.at(key).get<double>();
  return sum;
}

// What the rounds gave, over all processes of a cell.
struct Side {
  std::vector<double> speeds, bytes;
  void add(const std::vector<Json>& results) {
    speeds.push_back(total(results, "tokens_per_second"));
    bytes.push_back(total(results, "peak_bytes"));
  }
};

// One line of the table: a part of the step, on `processes` processes of `threads` threads each.
struct Cell {
  std::string name, part, recompute;
  int processes, threads;
  Side ours, eager, compile;
  bool has_peer() const { return recompute == "none"; }
};

class Bench {
 public:
  Bench(const TrainBenchOptions& options, Progress& progress) : options_(options), progress_(progress) {}

  Result<std::vector<Json>> ours(const Cell& cell, const std::string& recipe) {
    const std::string command =
        fmt::format("{} bench train --worker {} --worker-recompute {} --recipe {} --threads {} --steps {}",
                    shell_quoted(options_.executable), cell.part, cell.recompute, shell_quoted(recipe), cell.threads,
                    options_.steps);
    ENGRAM_ASSIGN_OR_RETURN(auto results, run_processes(std::vector<std::string>(cell.processes, command)));
    progress_.advance(1);
    return results;
  }

  Result<std::vector<Json>> pytorch(const Cell& cell, Json job, const std::string& mode, const std::string& moe) {
    job["mode"] = mode;
    job["part"] = cell.part;
    job["moe"] = moe;
    job["threads"] = cell.threads;
    const std::string command = fmt::format("printf %s {} | {} {} 2>/dev/null", shell_quoted(job.dump()),
                                            shell_quoted(options_.python), shell_quoted(options_.script));
    ENGRAM_ASSIGN_OR_RETURN(auto results, run_processes(std::vector<std::string>(cell.processes, command)));
    progress_.advance(1);
    return results;
  }

  Status round(Cell& cell, const Json& job) {
    ENGRAM_ASSIGN_OR_RETURN(const auto mine, ours(cell, options_.recipe));
    cell.ours.add(mine);
    if (!cell.has_peer()) return {};
    ENGRAM_ASSIGN_OR_RETURN(auto eager, pytorch(cell, job, "eager", "grouped"));
    if (cell.part == "train") {
      ENGRAM_ASSIGN_OR_RETURN(auto loop, pytorch(cell, job, "eager", "loop"));
      if (total(loop, "tokens_per_second") > total(eager, "tokens_per_second")) eager = std::move(loop);
    }
    cell.eager.add(eager);
    if (options_.compile) {
      ENGRAM_ASSIGN_OR_RETURN(const auto compiled, pytorch(cell, job, "compile", "grouped"));
      cell.compile.add(compiled);
    }
    return {};
  }

 private:
  const TrainBenchOptions& options_;
  Progress& progress_;
};

Json describe(const Cell& cell) {
  const double mine = median(cell.ours.speeds);
  Json object{{"name", cell.name}, {"ours", mine}, {"ours_bytes", median(cell.ours.bytes)}};
  if (!cell.has_peer()) return object;
  object["eager"] = median(cell.eager.speeds);
  object["ratio_to_eager"] = mine / median(cell.eager.speeds);
  object["eager_bytes"] = median(cell.eager.bytes);
  if (!cell.compile.speeds.empty()) {
    object["compile"] = median(cell.compile.speeds);
    object["ratio_to_compile"] = mine / median(cell.compile.speeds);
  }
  return object;
}

std::vector<Cell> cells_of(const TrainBenchOptions& options) {
  std::vector<Cell> cells = {{"training step, 1 process, 2 threads", "train", "none", 1, 2, {}, {}, {}},
                             {"training step, 2 processes, 1 thread", "train", "none", 2, 1, {}, {}, {}},
                             {"Engram module alone, 1 thread", "engram", "none", 1, 1, {}, {}, {}}};
  for (const char* recompute : {"attention", "blocks"})
    if (options.recompute)
      cells.push_back(
          {fmt::format("recompute {}, 1 process, 2 threads", recompute), "train", recompute, 1, 2, {}, {}, {}});
  return cells;
}

}  // namespace

TrainBenchOptions default_train_bench_options() {
  TrainBenchOptions options;
  options.executable = this_program();
  options.python = ENGRAM_SOURCE_DIR "/.venv-oracles/bin/python";
  options.script = ENGRAM_SOURCE_DIR "/bench/pytorch_baseline.py";
  return options;
}

Result<Json> run_train_worker(Env& env, const std::string& recipe_path, const std::string& part,
                              const std::string& recompute, int threads, int steps) {
  ENGRAM_ASSIGN_OR_RETURN(const Recipe recipe, Recipe::load(env, recipe_path, {"train.recompute=" + recompute}));
  if (recipe.data.synthetic_documents > 0)
    return invalid_argument("{}: bench train wants a recipe with data files", recipe_path);
  ENGRAM_ASSIGN_OR_RETURN(const RunInputs inputs, open_run_inputs(env, recipe, ""));
  at::set_num_threads(threads);
  at::globalContext().setFlushDenormal(true);
  Json result;
  double seconds = 0;
  if (part == "engram") {
    ENGRAM_ASSIGN_OR_RETURN(seconds, time_engram_module(inputs, steps));
  } else {
    std::map<std::string, double> phases;
    ENGRAM_ASSIGN_OR_RETURN(seconds, time_training(inputs, steps, phases));
    double sum = 0;
    for (const auto& [name, value] : phases) sum += value;
    for (const auto& [name, value] : phases) result["phases"][name] = value / sum;
  }
  result["tokens_per_second"] = static_cast<double>(recipe.data.batch_size * recipe.data.sequence_length) / seconds;
  result["seconds_per_step"] = seconds;
  result["peak_bytes"] = peak_rss_bytes();
  result["job"] = job_of(inputs, threads, steps);
  return result;
}

Result<Json> run_train_bench(Env& env, const TrainBenchOptions& options) {
  if (options.python.find('/') != std::string::npos && !env.file_exists(options.python)) {
    return not_found("PyTorch side: no Python at '{}'; run scripts/setup.sh --oracles, or pass --python",
                     options.python);
  }
  if (!env.file_exists(options.script)) return not_found("PyTorch side: no script at '{}'", options.script);
  std::vector<Cell> cells = cells_of(options);
  const int per_round = 4 * 2 + 3 - (options.compile ? 0 : 3) + 2 * (options.recompute ? 2 : 1);
  Progress progress("bench train", int64_t{options.rounds} * per_round, "processes");
  Bench bench(options, progress);
  std::vector<double> engram_steps, moe_steps;
  Json phases;
  for (int round = 0; round < options.rounds; ++round) {
    const Cell one{"", "train", "none", 1, 1, {}, {}, {}};
    ENGRAM_ASSIGN_OR_RETURN(const auto with_memory, bench.ours(one, options.recipe));
    ENGRAM_ASSIGN_OR_RETURN(const auto without, bench.ours(one, options.moe_recipe));
    engram_steps.push_back(1 / total(with_memory, "tokens_per_second"));
    moe_steps.push_back(1 / total(without, "tokens_per_second"));
    phases = with_memory[0].at("phases");
    for (Cell& cell : cells) ENGRAM_RETURN_IF_ERROR(bench.round(cell, with_memory[0].at("job")));
  }
  progress.finish();
  Json result;
  for (const Cell& cell : cells) result["cells"].push_back(describe(cell));
  result["engram_step_over_moe_step"] = median(engram_steps) / median(moe_steps);
  result["phases"] = phases;
  result["rounds"] = options.rounds;
  result["steps"] = options.steps;
  return result;
}

}  // namespace engram::bench
