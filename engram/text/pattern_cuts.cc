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

constexpr std::string_view kHan = R"(\p{Han}+)";  // to PCRE2 with the characters that Han shares

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
    kHan};

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

enum class Known { kTaker, kLooker, kOther, kUnknown };

Known known_alternative(std::string_view part) {
  const auto is_one_of = [part](const auto& list) {
    return std::find(std::begin(list), std::end(list), part) != std::end(list);
  };
  if (is_one_of(kTakesLineFeed)) return Known::kTaker;
  if (part == kLooksAhead) return Known::kLooker;
  return is_one_of(kOthers) ? Known::kOther : Known::kUnknown;
}

// DeepSeek's file holds the characters themselves where others write \r and \n.
std::string with_escapes(std::string_view regular_expression) {
  std::string pattern;
  for (const char c : regular_expression) pattern += c == '\r' ? "\\r" : c == '\n' ? "\\n" : std::string(1, c);
  return pattern;
}

}  // namespace

LineFeedCut line_feed_cut(std::string_view regular_expression) {
  const std::string pattern = with_escapes(regular_expression);
  bool takes_line_feed = false, looks_ahead = false;
  for (const std::string_view part : alternatives(pattern)) {
    const Known known = known_alternative(part);
    if (known == Known::kUnknown) return LineFeedCut::kUnproven;
    takes_line_feed |= known == Known::kTaker;
    looks_ahead |= known == Known::kLooker;
  }
  if (takes_line_feed) return LineFeedCut::kBoundary;
  return looks_ahead ? LineFeedCut::kUnproven : LineFeedCut::kHarmless;
}

bool is_published_pattern(std::string_view regular_expression) {
  const std::string pattern = with_escapes(regular_expression);
  const std::vector<std::string_view> parts = alternatives(pattern);
  return std::none_of(parts.begin(), parts.end(),
                      [](std::string_view part) { return known_alternative(part) == Known::kUnknown || part == kHan; });
}

LineFeedCut line_feed_cut_of_literal(std::string_view text) {
  if (text == "\n") return LineFeedCut::kBoundary;
  return text.find('\n') == std::string_view::npos ? LineFeedCut::kHarmless : LineFeedCut::kUnproven;
}

}  // namespace engram
