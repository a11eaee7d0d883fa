// Entities: names of people, places and things, found in text, so that probes can look at the token that ends one.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"
#include "engram/lab/text/probe_text.h"

namespace engram {

// One name a line; empty lines and lines that begin with '#' are skipped. path empty: the built-in list.
// kInvalidArgument: no name in the file.
Result<std::vector<std::string>> read_entities(Env& env, const std::string& path);

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
