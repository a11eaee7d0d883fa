// Edit: change the rows of one n-gram; what changes elsewhere?
//
// The rows of one n-gram (its highest order that the table holds, every head, every layer) are replaced, either by
// those of another n-gram or by gradient steps (Adam) that make a target text likelier after it. Then the model before
// is compared with the model after: the target after the n-gram alone and after its occurrences in held-out text, and
// KL(before || after) at every position of that text, by the position's relation to the rows. A position before
// which no token reads an edited row cannot change: its KL is 0 except for rounding.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "engram/lab/pages/statistics.h"
#include "engram/lab/probes/probe.h"

namespace engram {

// The rows of the n-gram that a token sequence ends with.
struct NgramRowIds {
  int order = 0;                              // min(tokens, max_ngram_size)
  std::vector<int32_t> tokens;                // the last `order` tokens, raw ids
  std::vector<std::vector<int64_t>> row_ids;  // [layers][heads]
};
// kInvalidArgument: fewer than 2 tokens.
Result<NgramRowIds> rows_of_ngram(const LoadedModel& model, const std::vector<int32_t>& tokens);

// Copies of the rows with gradient steps taken: the target's tokens made likelier after `context`. The model is left
// as it is. [layers][heads, d_row].
std::vector<torch::Tensor> train_rows(const LoadedModel& model, const NgramRowIds& rows,
                                      const std::vector<int32_t>& context, const std::vector<int32_t>& target,
                                      int64_t steps);

// The same model with other rows there; weights are shared with `model`, tables are its own.
Result<LoadedModel> with_rows(Env& env, const LoadedModel& model, const NgramRowIds& rows,
                              const std::vector<torch::Tensor>& values);

// How a position of a text is tied to the edited rows.
enum class Tie {
  kNgram,     // it is the n-gram
  kShared,    // another n-gram that shares at least one edited row
  kBehind,    // later in the same window than one of those
  kUntouched  // nothing edited was read up to here: its prediction cannot change
};
struct EditedPositions {
  std::vector<Tie> tie;           // [tokens - 1]
  std::vector<float> divergence;  // [tokens - 1] KL(before || after), nats
};
EditedPositions compare_edit(const LoadedModel& before, const LoadedModel& after, const NgramRowIds& rows,
                             const ProbeText& text);

Result<ProbeResult> probe_edit(const ProbeContext& context);

}  // namespace engram
