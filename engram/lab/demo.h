// The demo: a pure-MoE model and an Engram model, equal in P_tot and P_act, on the same text in the same order; then
// what the memory did. Leaves OUTPUT/moe, OUTPUT/engram (training outputs), OUTPUT/summary.json, OUTPUT/report.html.
//
// The two runs are child processes of this program, side by side with one thread each: two one-thread runs are faster
// than one two-thread run at this size. An interrupted demo continues from its checkpoints.
#pragma once
#include <atomic>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram {

struct DemoOptions {
  std::string executable;                                // the `engram` command that trains
  std::string moe_recipe = "recipes/demo_moe_cpu.toml";  // rho = 1
  std::string engram_recipe = "recipes/demo_engram_cpu.toml";
  std::string output = "demo";
  std::vector<std::string> overrides;  // "key=value", passed to both runs
  std::string prompt = "The President of the United States";
  int sample_tokens = 120;
  const std::atomic<bool>* stop = nullptr;  // set (by a signal handler) to stop with checkpoints
};

// Progress goes to stderr. kFailedPrecondition: text or recipe missing (the message says which script makes it), a
// run of another recipe in OUTPUT, another demo at work there, a training run that failed (with its own error line).
// kCancelled: stopped.
Status run_demo(Env& env, const DemoOptions& options);

}  // namespace engram
