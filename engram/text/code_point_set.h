// CodePointSet: the sets that pre-tokenizer patterns name, as the package `tokenizers` sees them.
//
// General categories are those of Oniguruma's Unicode 16, whatever utf8proc and PCRE2 are built with. Pure functions.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engram/text/unicode_tables.h"

namespace engram {

using CodePointSet = std::vector<CodePointRange>;  // ascending, disjoint, without surrogates

// Bit c is utf8proc's category number c. "L", "Lu", ...; empty for a name that is no category.
std::optional<uint32_t> category_mask(std::string_view name);
uint32_t category_bit(char32_t code_point);  // REQUIRES: < 0x110000

CodePointSet set_of_categories(uint32_t mask);
// The part of set_of_categories that PCRE2's older tables do not know.
CodePointSet later_set_of_categories(uint32_t mask);
// Han, Hiragana, Katakana, Hangul.
std::optional<CodePointSet> set_of_script(std::string_view name);
// \w. Alone, Oniguruma's also matches the numbers of Latin-1 (U+00B2, ...); inside a class it does not.
const CodePointSet& word_set(bool in_class);
CodePointSet extra_word_set(bool in_class);  // without the categories L, M, Nd, Nl, Pc
const CodePointSet& white_space_set();       // \s
const CodePointSet& numeric_set();           // Rust's char::is_numeric, for the Digits pre-tokenizer
CodePointSet complement(const CodePointSet& set);
bool contains(const CodePointSet& set, char32_t code_point);

// Whether valid UTF-8 holds a code point whose category PCRE2 does not know.
bool has_later_code_point(std::string_view text);

// "\x{41}-\x{5a}\x{5f}": the inside of a class.
std::string class_text(const CodePointSet& set);

}  // namespace engram
