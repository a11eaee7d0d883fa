// Prompt lookup: guesses at the next tokens of a text, copied from an earlier place that has the same last tokens.
//
// A. Saxena, "Prompt Lookup Decoding" (2023); vLLM calls it n-gram speculation. It needs no second model, costs a walk
// over the tokens, and guesses well where a text repeats itself: code, quotations, an answer made of its question.
#pragma once
#include <cstdint>
#include <span>

namespace engram {

// At most `count` tokens, a part of `tokens`: the tokens after the latest earlier match of its longest suffix. A suffix
// has kShortestMatch to kLongestMatch tokens.
// Empty when nothing matches.
inline constexpr int64_t kShortestMatch = 2, kLongestMatch = 4;
std::span<const int32_t> prompt_lookup(std::span<const int32_t> tokens, int64_t count);

}  // namespace engram
