// MetricsSink: where the lines of a run's metrics go. The line of a step is one JSON object (docs/training.md); a sink
// takes of it what its form has a place for. metrics.jsonl (metrics_log.h) is always written, the others when
// metrics.sinks names them.
#pragma once
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram {

class MetricsSink {
 public:
  virtual ~MetricsSink() = default;
  virtual Status append(const nlohmann::ordered_json& line) = 0;
  virtual Status sync() = 0;  // what was appended is durable
};

// Every number of a line except for its step: "loss", "step_seconds/data", "gate_mean/0". Samples and histograms are
// not numbers.
void for_each_number(const nlohmann::ordered_json& line, const std::function<void(const std::string&, double)>& each);

}  // namespace engram
