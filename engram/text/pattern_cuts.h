// Where a long text may be cut so that a Split pattern finds the same in the parts as in the whole.
//
// A cut is after a line feed between two characters that are not white space, the second of them not
// a slash ("x\n" | "y"). A pattern is judged by its alternatives: each must be known (they are those of the published
// tokenizers), anything else proves nothing. Known are alternatives that match no "\n" with a "y" behind it, and that
// look at nothing but the characters they match and the next one; `\s+(?!\S)` alone looks further, and `\s+` makes up
// for it: both match the lone "\n".
#pragma once
#include <string_view>

namespace engram {

enum class LineFeedCut {
  kUnproven,  // the parts may differ from the whole
  kHarmless,  // the same slices, but one that holds the place of the cut is two in the parts
  kBoundary,  // the same slices: one ends there in the whole, too
};

// Of a regular expression as tokenizer.json files hold it.
LineFeedCut line_feed_cut(std::string_view regular_expression);
// Whether every alternative is one of the list, and PCRE2 and Oniguruma find the same in a text without stand-ins.
bool is_published_pattern(std::string_view regular_expression);
// Of a pattern that matches only itself.
LineFeedCut line_feed_cut_of_literal(std::string_view text);

}  // namespace engram
