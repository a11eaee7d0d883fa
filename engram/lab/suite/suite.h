// Evaluation suite: questions with known answers, scored under one checkpoint (docs/formats/evaluation.md).
//
// Multiple choice is right when the right choice has the highest log-likelihood per byte; a cloze is right when the
// model's greedy continuation begins with one of the accepted answers. Few-shot prompts put `shots` other items of the
// same task in front, drawn with the seed. Every answered item is appended to OUTPUT/items.jsonl at once, so that an
// interrupted run continues; data.json, report.html and summary.md come at the end.
#pragma once
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"
#include "engram/lab/text/eval_items.h"
#include "engram/model/io/checkpoint.h"

namespace engram {

struct SuiteOptions {
  std::string checkpoint;
  std::string suite;       // a file of items, a folder of such files, or the NAME of demo/eval/NAME.jsonl
  std::string output;      // empty: results/eval-DATE
  std::string train_text;  // for the contamination check; empty: the recipe's; "none": no check
  std::string command;
  int64_t shots = 0;
  int64_t limit = 0;  // items of one task, drawn with the seed; 0: all
  int64_t batch_size = 16;
  int64_t seed = 0;
  bool memory_off = false;
  std::function<bool()> keep_going;  // false stops after the present batch (kCancelled); what is done stays
};

// The items of a suite, in order of file and line. kNotFound names what was looked for.
Result<std::vector<EvalItem>> read_suite(Env& env, const std::string& suite);

// The item with worked examples of its task in front: "prompt answer\n\n" each. `pool` holds items of the same task;
// the item itself is never an example.
std::string few_shot_prompt(const EvalItem& item, const std::vector<const EvalItem*>& pool, int64_t shots,
                            int64_t seed);

// What one item came to.
struct ItemResult {
  bool right = false;
  bool shortened = false;  // the prompt did not fit the model's context
  bool contaminated = false;
};
Result<std::vector<ItemResult>> answer_items(const LoadedModel& model, const std::vector<EvalItem>& items,
                                             const std::vector<std::string>& prompts, const SuiteOptions& options);

// Returns what data.json holds. kFailedPrecondition: OUTPUT holds a run of other options, checkpoint or commit.
Result<nlohmann::ordered_json> run_suite(Env& env, const SuiteOptions& options, std::string* output);

}  // namespace engram
