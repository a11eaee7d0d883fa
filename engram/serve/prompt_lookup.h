// Prompt lookup: guesses at the next tokens of a text, copied from where its end has stood before.
//
// A. Saxena, "Prompt Lookup Decoding" (2023); vLLM calls it n-gram speculation. It needs no second model, costs a walk
// over the tokens, and guesses well where a text repeats itself: code, quotations, an answer made of its question.
#pragma once
#include <cstdint>
#include <span>

namespace engram {

// At most `count` tokens, a part of `tokens`: what stood behind the place that agrees with the end of `tokens` in the
// most tokens (of such places the last; more than kLongestMatch count as that). Empty when none agrees in
// kShortestMatch.
inline constexpr int64_t kShortestMatch = 2, kLongestMatch = 4;
std::span<const int32_t> prompt_lookup(std::span<const int32_t> tokens, int64_t count);

}  // namespace engram
