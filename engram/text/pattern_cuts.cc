#include "engram/text/pattern_cuts.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <vector>

namespace engram {
namespace {

// Alternatives that take a lone "\n" and no more, whatever stands before it.
constexpr std::string_view kTakesLineFeed[] = {R"(\s+)", R"(\s*[\r\n]+)", R"(\s*[\r\n])"};
constexpr std::string_view kLooksAhead = R"(\s+(?!\S))";  // takes it at the end of the text only

// Alternatives that match no "\n", or match one only at their end with nothing but \r, \n and / behind it.
constexpr std::string_view kOthers[] = {
    "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'(?i:[sdmt]|ll|ve|re)",
    // GPT-2, ByteLevel
    R"( ?\p{L}+)", R"( ?\p{N}+)", R"( ?[^\s\p{L}\p{N}]+)",
    // cl100k, Llama 3, Qwen
    R"([^\r\n\p{L}\p{N}]?\p{L}+)", R"([^\r\n\p{L}\p{N}]?+\p{L}+)", R"(\p{N})", R"(\p{N}+)", R"(\p{N}{1,3})",
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*)", R"( ?[^\s\p{L}\p{N}]++[\r\n]*)",
    // o200k
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?)",
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?)",
    R"( ?[^\s\p{L}\p{N}]+[\r\n/]*)",
    // DeepSeek V3
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+)",
    R"([^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)", R"( ?[\p{P}\p{S}]+[\r\n]*)", R"(\d)", R"(\d+)", R"([0-9])", R"([0-9]+)",
    R"(\p{Han}+)"};

// The parts between the bars that stand outside brackets and classes.
std::vector<std::string_view> alternatives(std::string_view pattern) {
  std::vector<std::string_view> parts;
  size_t begin = 0;
  int depth = 0;
  bool in_class = false;
  for (size_t at = 0; at < pattern.size(); ++at) {
    switch (pattern[at]) {
      case '\\': ++at; break;
      case '[': in_class = true; break;
      case ']': in_class = false; break;
      case '(': depth += !in_class; break;
      case ')': depth -= !in_class; break;
      case '|':
        if (in_class || depth > 0) break;
        parts.push_back(pattern.substr(begin, at - begin));
        begin = at + 1;
        break;
      default: break;
    }
  }
  parts.push_back(pattern.substr(begin));
  return parts;
}

}  // namespace

LineFeedCut line_feed_cut(std::string_view regular_expression) {
  std::string pattern;  // DeepSeek's file holds the characters themselves where others write \r and \n
  for (const char c : regular_expression) pattern += c == '\r' ? "\\r" : c == '\n' ? "\\n" : std::string(1, c);
  const auto is_one_of = [](const auto& list, std::string_view part) {
    return std::find(std::begin(list), std::end(list), part) != std::end(list);
  };
  bool takes_line_feed = false, looks_ahead = false;
  for (std::string_view part : alternatives(pattern)) {
    if (is_one_of(kTakesLineFeed, part)) {
      takes_line_feed = true;
    } else if (part == kLooksAhead) {
      looks_ahead = true;
    } else if (!is_one_of(kOthers, part)) {
      return LineFeedCut::kUnproven;
    }
  }
  if (takes_line_feed) return LineFeedCut::kBoundary;
  return looks_ahead ? LineFeedCut::kUnproven : LineFeedCut::kHarmless;
}

LineFeedCut line_feed_cut_of_literal(std::string_view text) {
  if (text == "\n") return LineFeedCut::kBoundary;
  return text.find('\n') == std::string_view::npos ? LineFeedCut::kHarmless : LineFeedCut::kUnproven;
}

}  // namespace engram
