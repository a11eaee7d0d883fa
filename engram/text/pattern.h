// Pattern: what a Split pre-tokenizer looks for, an Oniguruma regular expression run by PCRE2 (with JIT).
//
// Matches are those of the package `tokenizers` (pattern_syntax.h says what is refused). Immutable; threads may
// share one. Move-only.
#pragma once
#include <cstddef>
#include <memory>
#include <string_view>
#include <vector>

#include "engram/core/status.h"

namespace engram {

struct Span {
  size_t begin, end;
};
struct Match : Span {
  bool matched;  // false: the text between two matches
};

class Pattern {
 public:
  // kInvalidArgument: malformed, too large or not supported.
  static Result<Pattern> compile(std::string_view regular_expression);
  static Result<Pattern> compile_literal(std::string_view text);
  ~Pattern();
  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) noexcept;

  // Appends the slices of `text`, matched or between matches, in order; they cover it. `text` is valid UTF-8; nothing
  // before or after it is seen. kResourceExhausted: the pattern backtracks more than it may.
  Status slice(std::string_view text, bool text_has_later_code_point, std::vector<Match>& slices) const;

 private:
  struct Impl;
  explicit Pattern(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace engram
