// distributed_bench: what it costs to train one model in several processes, beside as many processes that do not talk.
//
// Rounds take turns: one process alone; `ranks` processes side by side, each with the whole recipe, which is what the
// machine can do at most; `ranks` ranks that share each step. Every process has one thread and is `engram train`, so
// the numbers are those of metrics.jsonl: medians over the steps after the first few.
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram::bench {

struct DistributedBenchOptions {
  std::string executable;           // the `engram` command
  std::string recipes = "recipes";  // the folder of the demo's recipes
  std::string text = "demo/data";   // tokenizer.json and train.tokens; else synthetic text
  std::vector<std::string> cells = {"moe", "engram", "wide", "table", "experts"};
  int ranks = 2, rounds = 5;
  int steps = 15;              // measured steps of each process
  bool peer = false;           // also PyTorch's DistributedDataParallel, for `moe`
  std::string python, script;  // its interpreter, and bench/ddp_peer.py
  int link_megabits = 0;       // a second; also `engram` on two hosts with such a link; 0: not
};
DistributedBenchOptions default_distributed_bench_options();

// {"text", "exchange": {"latency_seconds", "bytes_per_second"}, "cells": [{"name", "tokens_per_step",
// "dense_parameters", "alone", "side_by_side", "ranks" (tokens per second), "efficiency", "speed_up", "waited_share",
// "bytes_per_step", "exchanges_per_step", "rows", "busiest_owner", "larger_worlds" (bench/larger_worlds.h), "peer",
// "hosts"}], "peer_missing"}. A measured number is {"median", "min", "max"} over the rounds. kInternal: a process
// failed.
Result<nlohmann::ordered_json> run_distributed_bench(Env& env, const DistributedBenchOptions& options);

}  // namespace engram::bench
