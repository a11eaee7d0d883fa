// Lists of integers as flags carry them: "0 5 7" or "0,5,7".
#pragma once
#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>
#include <vector>

#include "engram/core/json.h"
#include "engram/core/status.h"

namespace engram::apps {

// Integers between blanks or commas. kInvalidArgument names the flag and the word that is none.
template <typename Integer>
Result<std::vector<Integer>> parse_integers(const std::string& flag, const std::string& text) {
  std::vector<Integer> values;
  const char* at = text.data();
  const char* const end = at + text.size();
  const auto separates = [](char c) { return c == ' ' || c == ',' || c == '\t' || c == '\n' || c == '\r'; };
  while ((at = std::find_if_not(at, end, separates)) != end) {
    const char* const word_end = std::find_if(at, end, separates);
    Integer value = 0;
    const auto [parsed, error] = std::from_chars(at, word_end, value);
    if (error != std::errc() || parsed != word_end)
      return invalid_argument("{}: got {}, wanted integers of {} bits between blanks", flag,
                              quote_text(std::string_view(at, static_cast<size_t>(word_end - at))),
                              8 * sizeof(Integer));
    values.push_back(value);
    at = word_end;
  }
  return values;
}

}  // namespace engram::apps
