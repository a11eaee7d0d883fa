#include "engram/serve/prompt_lookup.h"

#include <algorithm>

namespace engram {

std::span<const int32_t> prompt_lookup(std::span<const int32_t> tokens, int64_t count) {
  const int64_t size = std::ssize(tokens);
  if (count <= 0) return {};
  const int32_t* end = tokens.data() + size;
  int64_t longest = 0, behind = 0;
  for (int64_t at = size - 1; at >= kShortestMatch && longest < kLongestMatch; --at) {
    const int32_t* place = tokens.data() + at;  // the tokens before it may agree with those before the end
    if (place[-1] != end[-1]) continue;
    int64_t length = 1;
    while (length < std::min(kLongestMatch, at) && place[-1 - length] == end[-1 - length]) ++length;
    if (length > longest) longest = length, behind = at;
  }
  if (longest < kShortestMatch) return {};
  return tokens.subspan(static_cast<size_t>(behind), static_cast<size_t>(std::min(count, size - behind)));
}

}  // namespace engram
