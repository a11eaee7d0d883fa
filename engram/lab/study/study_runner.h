// The study runner: trains the runs of a study, a child process for each run, `jobs` side by side, and writes
// RESULTS/STUDY-SCALE-DATE/{runs/RUN.json, data.json, summary.md, report.html} as the runs end.
//
// WORK/STUDY-SCALE/ holds what is in progress (checkpoints, logs) and WORK/STUDY-SCALE/weights/RUN the final bf16
// weights, except of controls that no checkpoint can hold; everything else of a run is removed when its record is
// written. After a kill at any moment the same command with --resume continues: finished runs are not repeated, the
// others continue from their checkpoints.
#pragma once
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram {

struct StudyOptions {
  std::string executable;  // the `engram` command that trains
  std::string name;        // what the file must call itself
  std::string path;        // the study file
  std::string command;     // for the page
  int64_t seeds = 0;       // instead of the study's; 0: the study's
  int64_t jobs = 1;
  bool resume = false;
  bool dry_run = false;  // print the plan and stop
  std::vector<std::string> overrides;
  std::string results = "results", work = "runs";
  const std::atomic<bool>* stop = nullptr;  // set (by a signal handler) to stop with checkpoints
};

// Prints the plan to stdout, progress to stderr: on a terminal a line for each running run, else one as a run ends.
// A run that fails does not stop the others, but three of them do. kInvalidArgument: the study file, or parameters
// that cannot be solved; nothing has run then. kAlreadyExists: the study has begun and `resume` is off.
// kFailedPrecondition: records of another recipe, another runner at work, runs that failed. kCancelled: stopped.
Status run_study(Env& env, const StudyOptions& options);

}  // namespace engram
