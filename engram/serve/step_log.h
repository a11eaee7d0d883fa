// StepLog: what the steps of an engine tell its operator: preemptions, slow steps (at most a line of each in ten
// seconds) and the first trouble.
#pragma once
#include "engram/serve/engine.h"
#include "engram/serve/log.h"

namespace engram {

// For one thread.
class StepLog {
 public:
  explicit StepLog(std::shared_ptr<ServerLog> log);  // none: no lines
  void report(const EngineMetrics& before, const EngineMetrics& now, const Status& health);

 private:
  const std::shared_ptr<ServerLog> log_;
  RateLimit preemption_lines_, slow_step_lines_;
  uint64_t told_preemptions_ = 0;
  bool told_trouble_ = false;
};

}  // namespace engram
