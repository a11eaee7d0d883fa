// Knock-out (experiment E10): what does the memory hold?
//
// Facts are asked as a cloze with choices, once from memory and once with the answer in the prompt: the same words, but
// the prompt first states another of the choices, so that knowing the fact does not help ("The capital of France is
// Rome. The capital of France is"). Both sets are asked with the rows and without them (Engram blocks add nothing).
// Other questions may stand for the second kind, and each task of a file is counted by itself.
// kept share = (score without rows - chance) / (score with rows - chance), with a bootstrap interval over items.
#pragma once
#include <string>
#include <vector>

#include "engram/lab/probes/probe.h"
#include "engram/lab/text/eval_items.h"
#include "engram/lab/text/score.h"

namespace engram {

// The item after a statement of another of its choices; that choice is the answer. REQUIRES: item.is_choice().
EvalItem grounded_item(const EvalItem& item);

// The choice with the highest log-likelihood per byte; ties go to the first.
int64_t likeliest_choice(const std::vector<std::string>& choices, std::span<const Score> scores);

// What one model said to one item: which choice (log-likelihood per byte), and about the right answer.
struct ChoiceOutcome {
  bool right = false;         // the right choice is the likeliest
  bool exact = false;         // every token of the right answer is the model's first choice
  double log_likelihood = 0;  // nats per token of the right answer
  double chance = 0;          // 1 / choices
};
// REQUIRES: every item is multiple choice.
Result<std::vector<ChoiceOutcome>> answer_choices(const LoadedModel& model, const std::vector<EvalItem>& items,
                                                  const ScoreOptions& options);

Result<ProbeResult> probe_knock_out(const ProbeContext& context);

}  // namespace engram
