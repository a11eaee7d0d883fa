// TrainSummary: what a run has to say, at its end and meanwhile.
#pragma once
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engram/data/text_parts.h"
#include "engram/model/parameters.h"

namespace engram {

// Hears what a run has to say, on the thread of train().
class TrainObserver {
 public:
  virtual ~TrainObserver() = default;
  virtual void on_message(const std::string& /*line*/) {}
  // The loop begins: `done` of `steps` steps are complete. Not called when none is left.
  virtual void on_start(int64_t /*steps*/, int64_t /*done*/) {}
  virtual void on_step(double /*loss*/, double /*tokens_per_second*/) {}
  virtual void on_end() {}
};

// What a named validation set says of the model (docs/training.md).
struct ValidationSetResult {
  std::string name;
  int64_t tokens = 0, documents = 0;
  double loss = 0, bits_per_byte = 0, exact = 0;
};

struct TrainSummary {
  int64_t step = 0, steps = 0;  // completed; of the schedule
  int64_t tokens = 0;           // targets, over all sessions of the run
  double seconds = 0;           // likewise, of training steps
  double loss = 0;              // of the last step
  double validation_loss = 0;   // of the last validation; 0: none was made
  double bits_per_byte = 0;
  double average_validation_loss = 0;      // of the averaged weights, then; 0: none
  int64_t skipped_steps = 0;               // over all sessions of the run: whose loss or gradient was not finite
  std::vector<PartLoss> validation_parts;  // of that validation: repeats of the context, overlap with training, sources
  std::vector<ValidationSetResult> validation_sets;
  ParameterCount parameters;
  int64_t trained_parameters = 0;  // weights that are not frozen, and all rows
  std::string checkpoint;          // the last one, a directory
  int64_t peak_rss_bytes = 0;
  double mfu = 0;                              // mean of this session's steps; 0: not measured (docs/training.md)
  std::map<std::string, double> step_seconds;  // likewise: data, forward, backward, optimizers, exchange
  bool interrupted = false;
  std::map<std::string, double> phase_seconds;
  std::map<std::string, double> exchange;  // of several ranks: means over this session's steps (docs/training.md)
};

// {NAME: {tokens, documents, loss, bits_per_byte, exact}}
nlohmann::ordered_json to_json(const std::vector<ValidationSetResult>& sets);

}  // namespace engram
