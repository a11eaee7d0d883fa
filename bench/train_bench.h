// train_bench: the training step of a recipe beside the same step in plain PyTorch (bench/pytorch_baseline.py).
//
// Every number comes from a separate process, so neither side inherits the other's threads or memory; the
// sides take turns, round by round, and the medians are compared. PyTorch runs its experts both expert by expert
// ("loop") and sorted with grouped products ("grouped"); the faster one counts. A process's peak memory is recorded
// too.
#pragma once
#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram::bench {

struct TrainBenchOptions {
  std::string executable;  // the `engram` command, for the worker processes
  std::string python;      // interpreter that has torch
  std::string script;      // bench/pytorch_baseline.py
  std::string recipe = "recipes/demo_engram_cpu.toml";
  std::string moe_recipe = "recipes/demo_moe_cpu.toml";
  int rounds = 3;
  int steps = 20;          // measured steps of each process, after warm-up
  bool compile = true;     // also torch.compile, which takes about a minute a process
  bool recompute = false;  // also our step with activations that are computed again (train.recompute)
};
TrainBenchOptions default_train_bench_options();

// One worker process: `part` "train" is the whole step, "engram" the module alone, forward and backward. `recompute`:
// the value of train.recompute.
// {"tokens_per_second", "seconds_per_step", "peak_bytes", "phases": {name: share}, "job": what the PyTorch side needs}.
Result<nlohmann::ordered_json> run_train_worker(Env& env, const std::string& recipe, const std::string& part,
                                                const std::string& recompute, int threads, int steps);

// {"cells": [{"name", "ours", "ours_bytes", and where PyTorch took part "eager", "eager_bytes", "compile",
//  "ratio_to_eager", "ratio_to_compile"}] in tokens per second, "engram_step_over_moe_step", "phases"}.
// kNotFound: no interpreter or script; kInternal: a process failed.
Result<nlohmann::ordered_json> run_train_bench(Env& env, const TrainBenchOptions& options);

}  // namespace engram::bench
