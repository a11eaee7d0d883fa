// Entities: names of people, places and things, found in text, so that probes can look at the token that ends one.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"
#include "engram/lab/text/probe_text.h"

namespace engram {

// One name a line; empty lines and lines that begin with '#' are skipped. path empty: the built-in list.
// kInvalidArgument: no name in the file.
Result<std::vector<std::string>> read_entities(Env& env, const std::string& path);

// A name, and words of which a text that knows the entity holds one.
struct KnownEntity {
  std::string name;
  std::vector<std::string> words;
};
// Lines "NAME | WORD, WORD"; otherwise as above. kInvalidArgument names the line: no word, a name twice, or a word that
// the name's own last word holds: it would tell nothing.
Result<std::vector<KnownEntity>> read_known_entities(Env& env, const std::string& path);
// Whether one of the words stands in the text, at the beginning of a word of it. Case of ASCII letters is ignored.
bool holds_word(std::string_view text, const std::vector<std::string>& words);
// "Wales" of "Diana, Princess of Wales".
std::string_view last_word(std::string_view name);

struct EntityMatch {
  size_t entity = 0;                        // index into the list
  int64_t first_token = 0, last_token = 0;  // tokens that hold its first and its last byte
};
// Occurrences as whole words, in order; where several names fit, the longest, and matches do not overlap. An
// occurrence counts only when a token ends where the name ends. Bytes above ASCII count as letters.
std::vector<EntityMatch> find_entities(const TokenBytes& text, const std::vector<std::string>& entities);

// Letters, digits and every byte above ASCII.
bool is_word_byte(char c);

// True where a token ends a word: its last byte is a letter or digit and the next token begins with another byte.
std::vector<bool> word_ends(const TokenBytes& text);

}  // namespace engram
