// MetricsLog: OUTPUT/metrics.jsonl, one JSON object per training step.
//
// A line reaches the file in one write, so readers that follow the file see whole lines; sync() before a checkpoint
// is published makes every line up to its step durable. On resume the lines after the checkpoint's step go.
#pragma once
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "engram/train/metrics_sink.h"

namespace engram {

class MetricsLog : public MetricsSink {
 public:
  // Opens for appending after `step` completed steps: later lines, and a torn last one, are cut off. kDataLoss: the
  // file does not hold exactly the lines of steps 1..step before that.
  static Result<std::unique_ptr<MetricsLog>> open(Env& env, const std::string& path, int64_t step);
  // The line of `step`; an empty object when that is 0.
  const nlohmann::json& last_line() const { return last_line_; }
  Status append(const nlohmann::ordered_json& line) override;
  Status sync() override;

 private:
  MetricsLog() = default;
  std::unique_ptr<WritableFile> file_;
  nlohmann::json last_line_ = nlohmann::json::object();
};

}  // namespace engram
