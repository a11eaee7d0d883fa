// Where a long text may be cut for tokenising, so that the parts' ids are the whole text's.
//
// A cut lies behind a single line feed between two characters that are no white space, and the tokenizer's parts must
// allow it: no normalizer but the Unicode forms, Lowercase and StripAccents, no added token that takes white space to
// its left or holds a line feed, and known patterns that end a word there (pattern_cuts.h).
#pragma once
#include <string_view>

#include "engram/text/tokenizer.h"

namespace engram {

// A plain value; any thread.
class TextCuts {
 public:
  // Reads the tokenizer's file again, which takes as long as loading it.
  explicit TextCuts(const Tokenizer& tokenizer);
  // True when the ids of `text` are proven to be those of its first `at` bytes followed by those of the rest; false
  // proves nothing. REQUIRES: text is valid UTF-8, at <= text.size().
  bool may_cut(std::string_view text, size_t at) const;

 private:
  bool any_ = false, ascii_only_ = false;
};

}  // namespace engram
