// EvalItem: one question of an evaluation, read from JSON lines (docs/formats/evaluation.md).
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram {

struct EvalItem {
  std::string task, id;              // id is unique within its task
  std::string split;                 // "", "train" (the model may have seen the fact) or "held-out"
  std::string prompt;                // the text before the answer
  std::vector<std::string> choices;  // multiple choice: two or more; empty for a cloze
  int64_t answer = -1;               // index of the right choice
  std::vector<std::string> targets;  // cloze: texts that count as right
  bool is_choice() const { return !choices.empty(); }
};

// kInvalidArgument or kDataLoss name the line: not JSON, a missing, unknown or misshapen key, an id twice, no item.
Result<std::vector<EvalItem>> parse_eval_items(std::string_view text, const std::string& name);
Result<std::vector<EvalItem>> read_eval_items(Env& env, const std::string& path);

}  // namespace engram
