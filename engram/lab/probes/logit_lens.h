// Logit lens (experiment E5): are predictions ready in earlier blocks?
//
// Each block's output goes through the model's own stream head, final norm and LM head; its distance from the
// model's output is KL(final || block), in nats per token. The last block's is 0 except for rounding. Source: the
// paper, section 5.1, after nostalgebraist's logit lens.
#pragma once
#include <vector>

#include "engram/lab/pages/statistics.h"
#include "engram/lab/probes/probe.h"

namespace engram {

// Per block: the mean over each window of the text (the sample that errors are computed from).
struct LensTrace {
  std::vector<std::vector<double>> divergence;  // [blocks][windows] KL(final || block), nats
  std::vector<std::vector<double>> loss;        // [blocks][windows] nats of the true next token
  std::vector<std::vector<double>> agreement;   // [blocks][windows] share of tokens with the final first choice
};
// Windows of `window` tokens; a shorter last one is left out, unless it is the only one.
LensTrace trace_lens(const LoadedModel& model, const ProbeText& text, int64_t window);

Result<ProbeResult> probe_logit_lens(const ProbeContext& context);

}  // namespace engram
