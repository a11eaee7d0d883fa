// StepMeter: what the steps of a session cost: tokens a second, model FLOPs utilisation, the parts of a step, memory.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engram/train/learner.h"
#include "engram/train/matrix_rate.h"
#include "engram/train/train_summary.h"

namespace engram {

// Where the step has counted what they need: {NAME: {"low", "high", "counts"}}, "gate/0" of the first layer with a
// memory, "expert_load/1" of the second block with experts, whose bins are the experts.
void add_histograms(const StepResult& step, const ModelConfig& config, nlohmann::ordered_json& line);

class StepMeter {
 public:
  // Measures the machine (matrix_rate.h). Ranks of one machine measure at the same time, as they train.
  StepMeter(const RunInputs& inputs, int ranks);
  // What utilisation is measured against; empty where it is not: with frozen weights nobody knows what must be
  // computed.
  std::string describe() const;
  // Fills the fields of a step that took `seconds` into its line of metrics.jsonl.
  void add(const StepResult& step, double seconds, nlohmann::ordered_json& line);
  // "1.31k tokens/s, 35.2 % MFU", of the last step.
  std::string last() const;
  // Means over all steps so far.
  void fill(TrainSummary& summary) const;

 private:
  double utilisation(double positions, double seconds) const;

  torch::Device device_;
  double token_flops_ = 0, ranks_;
  MatrixRate rate_;
  double tokens_per_second_ = 0, mfu_ = 0;  // of the last step
  double steps_ = 0, positions_ = 0, seconds_ = 0;
  StepSeconds parts_;
};

}  // namespace engram
