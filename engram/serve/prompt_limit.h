// How many bytes of text a context can hold, whatever the text: longer prompts are refused before they are tokenised.
#pragma once
#include <cstddef>
#include <optional>

#include "engram/text/tokenizer.h"

namespace engram {

// max_context times the bytes of the longest token. Nothing where a token may stand for more text than its own bytes: a
// normalizer, a pre-tokenizer or an added token that takes text away, bytes that are in no token.
std::optional<size_t> most_prompt_bytes(const Tokenizer& tokenizer, int max_context);

}  // namespace engram
