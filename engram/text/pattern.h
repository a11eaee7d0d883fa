// Pattern: what a Split pre-tokenizer looks for, an Oniguruma regular expression as the package `tokenizers` runs it.
//
// Oniguruma finds the matches. Patterns of the published tokenizers (pattern_cuts.h), where both engines find the same,
// run on PCRE2 (with JIT), which takes a quarter of the time. Immutable; threads may share one. Move-only.
#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "engram/core/status.h"
#include "engram/text/pattern_cuts.h"

namespace engram {

struct Span {
  size_t begin, end;
};
struct Match : Span {
  bool matched;  // false: the text between two matches
};

class Pattern {
 public:
  // kInvalidArgument: malformed or too large; it names the part.
  static Result<Pattern> compile(std::string_view regular_expression);
  static Result<Pattern> compile_literal(std::string_view text);  // not empty
  // {"pattern": {"Regex": ..} or {"String": ..}} of a part of a tokenizer.json; `where` is the part.
  static Result<Pattern> parse(const nlohmann::json& part, const std::string& where);
  ~Pattern();
  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) noexcept;

  // Calls found(match) for every match in order, until it returns false. `text` is valid UTF-8; nothing before or after
  // it is seen. `plain`: needs_stand_ins() is false for the text. kResourceExhausted: the pattern backtracks more than
  // it may.
  Status search(std::string_view text, bool plain, const std::function<bool(Span)>& found) const;
  // Appends the slices of `text`, matched or between matches, in order; they cover it. Otherwise as
  // search().
  Status slice(std::string_view text, bool plain, std::vector<Match>& slices) const;
  LineFeedCut line_feed_cut() const;

 private:
  struct Impl;
  explicit Pattern(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace engram
