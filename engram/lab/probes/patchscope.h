// Patchscope (experiment E7): in which block is an entity resolved?
//
// The state of an entity's last token after block l is put, after block l, in the place of the last token of a prompt
// that describes things by example and ends in a placeholder; what the model then writes says what the state holds.
// Source: Ghandeharioun et al. 2024, section 4.3; the paper asks it of "Diana, Princess of Wales".
//
// A model that cannot describe things it is told by name cannot be read this way. So the probe first lets it describe
// known things without any patch and counts how often a description holds one of the thing's own key words, against
// those of other things; where the first is not clearly above the second, the result is "not testable".
#pragma once
#include <string>
#include <vector>

#include "engram/lab/probes/probe.h"

namespace engram {

// The residual streams [M, d] of the text's last token after every block.
Result<std::vector<torch::Tensor>> last_token_states(const LoadedModel& model, const std::string& text);

// Greedy continuation of `prompt`; with a state, it is put after `block` at the prompt's last token in every forward
// pass. block < 0: no patch. Ends at a line feed, at eos or after max_tokens. kInvalidArgument: a prompt that leaves
// no room for max_tokens.
Result<std::string> describe_with(const LoadedModel& model, const std::string& prompt, int block,
                                  const torch::Tensor& state_Md, int max_tokens);

Result<ProbeResult> probe_patchscope(const ProbeContext& context);

}  // namespace engram
