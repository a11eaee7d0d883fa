// Unicode text: UTF-8, normal forms, categories, lower-casing (over utf8proc).
//
// Exact in the sense of the Python package `tokenizers`: the four normal forms, strip_marks, lowercase and
// strip_white_space give what its normalizers give, for every scalar value (tests/text/unicode_test.cc checks digests
// of a sweep). Its parts follow different Unicode versions; unicode_tables.h says where utf8proc answers otherwise.
// Pure functions; any thread. Except where said, text must be valid UTF-8.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace engram {

// Byte offset of the first ill-formed sequence, npos when there is none. Surrogates and values over U+10FFFF are
// ill-formed.
size_t find_invalid_utf8(std::string_view text);
// The text with every maximal ill-formed part replaced by U+FFFD, as Rust and Python do. Any bytes.
std::string utf8_lossy(std::string_view bytes);
// The code point at `at`, which moves past it. REQUIRES: at < text.size().
char32_t next_code_point(std::string_view text, size_t& at);
// The code point that ends at `at`, which moves to its first byte. REQUIRES: at > 0.
char32_t previous_code_point(std::string_view text, size_t& at);
void append_utf8(std::string& out, char32_t code_point);

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };
std::string normalize(std::string_view text, NormalForm form);
// Without the marks (general category M).
std::string strip_marks(std::string_view text);
// Per code point with full mapping: U+0130 gives two code points; no final sigma, no locale.
std::string lowercase(std::string_view text);
// Without White_Space at both ends; a view into `text`.
std::string_view strip_white_space(std::string_view text);

bool is_white_space(char32_t code_point);     // the property White_Space
bool is_numeric(char32_t code_point);         // Rust's, for the Digits pre-tokenizer
bool is_word_character(char32_t code_point);  // \w of Rust's regular expressions
bool is_punctuation(char32_t code_point);     // the Punctuation pre-tokenizer's

// What Python's repr() escapes: controls, formats, unassigned ones, white space.
bool is_unprintable(char32_t code_point);

// Whether the text holds a character that the installed Oniguruma or PCRE2 sees in another way than `tokenizers` does.
bool needs_stand_ins(std::string_view text);
// The text with others in their places that are seen in the wanted way; every character keeps its length. Of 190
// characters of Unicode 15 and 16 the script (Cyrillic, Latin, ...) is lost, because no older one of the kind has it.
std::string with_stand_ins(std::string_view text);

}  // namespace engram
