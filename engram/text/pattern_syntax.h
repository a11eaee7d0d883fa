// Oniguruma patterns, as tokenizer.json files hold them, translated to PCRE2.
//
// The two differ in what looks the same: ^ and $ are line anchors, (?m) means dot-all, \h is a hex digit, \s has no
// U+180E, {n}+ is not possessive, (?i) reaches over |, and the tables are of other Unicode versions. What is not
// translated is refused by name: back references, named groups, conditionals, nested classes and &&, POSIX brackets,
// properties other than general categories and a few scripts, extended mode.
#pragma once
#include <string>
#include <string_view>

#include "engram/core/status.h"

namespace engram {

struct PatternSyntax {
  std::string fast;   // PCRE2's own properties: for text without a code point later than its Unicode version
  std::string exact;  // the same with later code points spelled out: for any text
};

// Wants PCRE2_UTF | PCRE2_UCP and LF as newline. kInvalidArgument: malformed or not supported; names the part and
// its byte in the pattern.
Result<PatternSyntax> translate_pattern(std::string_view pattern);

// Text that matches itself.
std::string escape_literal(std::string_view text);

}  // namespace engram
