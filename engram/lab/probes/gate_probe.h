// Gates (experiment E12): does the gate fire at the end of names and fixed phrases?
//
// The gate of every token over the paper's sentences and over held-out text (lab/probes/gates.h), and two measures on
// the ends of named entities: the area under the ROC curve of gate against (a) random other tokens, (b) other tokens
// that end a word, (c) those of them that are as frequent, and the precision when as many ends as other tokens are
// ranked by their gate (chance 0.5). (c) is the null of the question whether it is names that the gate likes: names are
// rarer than other words, and the rows of rare n-grams have learned less.
#pragma once
#include <cstdint>
#include <vector>

#include "engram/lab/pages/statistics.h"
#include "engram/lab/probes/gates.h"
#include "engram/lab/probes/probe.h"

namespace engram {

// Positions of a text: entity ends, other tokens, and other tokens that end a word; the controls are drawn without
// replacement, as many as there are ends where there are enough. Of the last two as many in each class of frequency:
// powers of two of how often the bigram that ends there occurs.
struct GateGroups {
  std::vector<int64_t> ends, random, word_ends;
  std::vector<int64_t> matched_ends, matched_word_ends;
};
// counts: of the bigram that ends at each token.
GateGroups gate_groups(const TokenBytes& bytes, const std::vector<std::string>& entities,
                       const std::vector<int64_t>& counts, int64_t seed);

struct GateContrast {
  double auc = 0.5;
  Interval auc_interval;          // bootstrap over windows
  int64_t top_ends = 0, top = 0;  // of the `top` highest gates, how many are ends
};
GateContrast contrast(const GateTrace& trace, int layer, int branch, const std::vector<int64_t>& ends,
                      const std::vector<int64_t>& others, int64_t window, int64_t seed);

// Needs a checkpoint with memory = engram; with two, the second that has one.
Result<ProbeResult> probe_gates(const ProbeContext& context);

}  // namespace engram
