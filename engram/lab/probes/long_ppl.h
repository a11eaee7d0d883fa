// LongPPL (experiment E4): the perplexity of the tokens that a long context helps to predict.
//
// Fang et al., "What is Wrong with Perplexity for Long-context Language Modeling?" (ICLR 2025, arXiv 2410.23771): a
// token is a key token of a judging model where its loss with the whole context is below 2 nats and lies more than 2
// nats below its loss with a short context of K to K + K/4 tokens. LongPPL is exp(mean loss of the key tokens, whole
// context). The paper's judge is one large model; here every compared model judges in turn, so that no choice of the
// judge favours one of them.
//
// Only documents that fill the model's context are read, in windows of that length; the sample is the window.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "engram/lab/probes/probe.h"

namespace engram {

// Losses in nats of the same tokens, [windows][tokens]: the positions from `short_context` to the window's end.
struct LongShortLosses {
  std::vector<std::vector<float>> with_long, with_short;
};

// Starts of the windows of `length` tokens and one target that lie inside one document.
std::vector<int64_t> windows_inside_documents(const ProbeText& text, int64_t length);

// REQUIRES: 4 <= short_context, short_context + short_context / 4 <= length <= the model's context.
LongShortLosses long_short_losses(const LoadedModel& model, const ProbeText& text, std::span<const int64_t> starts,
                                  int64_t length, int64_t short_context);

// [windows][tokens]: whether a token is a key token.
std::vector<std::vector<bool>> key_tokens(const LongShortLosses& judge);

Result<ProbeResult> probe_long_ppl(const ProbeContext& context);

}  // namespace engram
