// What a model writes behind a prompt whose last token carries the states of other texts (Patchscope's forward passes).
//
// The prompt is read once, into a page that all patches share; a patch changes its last token alone, so each costs one
// token a step.
#pragma once
#include <string>
#include <vector>

#include "engram/core/progress.h"
#include "engram/model/io/checkpoint.h"

namespace engram {

// The residual streams [M, d] of the text's last token after every block. kInvalidArgument: an empty text, or one that
// the model cannot hold.
Result<std::vector<torch::Tensor>> last_token_states(const LoadedModel& model, const std::string& text);

struct Patch {
  int block = -1;          // the state stands after this block; < 0: nothing is changed
  torch::Tensor state_Md;  // [M, d]
};
// One greedy continuation of the prompt for each patch. It ends before a line feed, before a token that ends texts, or
// after max_tokens. kInvalidArgument: a prompt of less than 2 tokens, or one that leaves no room for max_tokens.
Result<std::vector<std::string>> patched_texts(const LoadedModel& model, const std::string& prompt,
                                               std::span<const Patch> patches, int max_tokens,
                                               Progress* progress = nullptr);

}  // namespace engram
