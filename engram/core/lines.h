// Lines of a text: cut at \n, which belongs to none of them; the last one may lack it.
#pragma once
#include <algorithm>
#include <string_view>

namespace engram {

// The first line of `rest`, which loses it. REQUIRES: rest is not empty (an empty rest has no more lines).
inline std::string_view take_line(std::string_view& rest) {
  const std::string_view line = rest.substr(0, rest.find('\n'));
  rest.remove_prefix(std::min(line.size() + 1, rest.size()));
  return line;
}

}  // namespace engram
