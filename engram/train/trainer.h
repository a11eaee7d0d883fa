// Trainer: one run, from a recipe to checkpoints in train.output.
//
// The loop: next batch, step (learner.h), metrics, now and then validation and a checkpoint. A run that is stopped,
// killed or resumed continues bit for bit on CPU (same threads): batches are a function of their number, and a
// checkpoint holds everything else. Metrics go to OUTPUT/metrics.jsonl (docs/training.md), messages and progress to the
// caller. Settings of the process (threads of torch, denormals, malloc) are the caller's, too; the bits of a run depend
// on them.
//
// Several processes (ranks) train one model when options.world says so. Each calls train() with the same recipe and has
// the data's files; rank 0 alone reads and writes OUTPUT and talks to the observer. The recipe decides the numbers, the
// number of ranks does not (docs/training.md).
#pragma once
#include <atomic>
#include <cstdint>
#include <string>

#include "engram/core/env.h"
#include "engram/core/status.h"
#include "engram/dist/world.h"
#include "engram/train/recipe.h"
#include "engram/train/train_summary.h"

namespace engram {

struct TrainOptions {
  bool resume = false;                      // continue OUTPUT's latest checkpoint; from step 0 when there is none
  bool profile = false;                     // fill TrainSummary::phase_seconds
  const std::atomic<bool>* stop = nullptr;  // set (by a signal handler) to stop after the current step
  TrainObserver* observer = nullptr;        // may be null
  World world;                              // one process, unless a launcher says otherwise
  std::string program;                      // version of the program, which all ranks must share
};

// Runs to train.steps, to train.stop_at, or until options.stop. Errors leave the last complete checkpoint as it is:
// kInvalidArgument (recipe, data, ranks that differ), kUnavailable (a rank that has gone), kAlreadyExists (OUTPUT holds
// a run), kFailedPrecondition (OUTPUT is in use by another run, a resumed recipe that differs, a loss that is not
// finite), kResourceExhausted (memory, before any is taken), Env's errors (full disk, read-only folder). Throws
// c10::Error where torch does. Runs may follow each other in one process, and run at the same time; torch's random
// state is then shared, so that their numbers are others.
Result<TrainSummary> train(Env& env, const Recipe& recipe, const TrainOptions& options);

}  // namespace engram
