// Validation: what a run measures between steps, the text of data.validation and its named sets.
#pragma once
#include <nlohmann/json.hpp>
#include <optional>

#include "engram/train/learner.h"
#include "engram/train/train_summary.h"

namespace engram {

class Validation {
 public:
  // `inputs` outlives it. Reads the text once.
  explicit Validation(const RunInputs& inputs);
  // Fills the summary's fields and those of a line of metrics.jsonl, and tells the observer. All ranks call it
  // together. `whose`: what messages begin with.
  Status measure(Learner& learner, const std::string& whose, TrainSummary& summary, nlohmann::ordered_json& line,
                 TrainObserver& observer);
  // The summary's fields, from the last line of a run that goes on.
  static void restore(const nlohmann::json& line, TrainSummary& summary);

 private:
  Status measure_sets(Learner& learner, const std::string& whose, TrainSummary& summary, TrainObserver& observer);

  const RunInputs& inputs_;
  TokenText text_;
  std::optional<TextParts> parts_;  // of text_; made at the first validation
};

}  // namespace engram
