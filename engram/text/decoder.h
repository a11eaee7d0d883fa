// Decoder: the `decoder` of a tokenizer.json, which makes text of the strings of tokens.
//
// ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip, BPEDecoder and sequences of them; others are refused by
// name. Immutable; threads may share one.
#pragma once
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "engram/core/status.h"

namespace engram {

class Decoder {
 public:
  // `value` may be null: tokens are joined with blanks. kInvalidArgument names `where` and the part.
  static Result<Decoder> parse(const nlohmann::json& value, const std::string& where);

  // Valid UTF-8: a byte that belongs to no character becomes U+FFFD, as in `tokenizers`. kResourceExhausted: steps that
  // each make a text longer, past 64 times its bytes and 1024; a pattern that backtracks too much.
  Result<std::string> decode(std::vector<std::string> tokens) const;
  // The bytes of one token inside a text, which may end inside a character.
  std::string token_bytes(std::string token) const;

 private:
  struct Step {
    std::function<Status(std::vector<std::string>& tokens, size_t limit)> all;  // of a whole text
    std::function<bool(std::string& token)> one;  // inside a text; true: these are the bytes. May be null
  };
  struct Place {
    size_t index, count;  // of the token among all
    size_t limit;         // of its bytes
  };
  Status add(const nlohmann::json& value, const std::string& where);
  Status add_with_text(const std::string& type, const nlohmann::json& value, const std::string& where);
  void add_each(std::function<Result<std::string>(std::string_view token, const Place& place)> change, bool inside);

  std::vector<Step> steps_;
};

}  // namespace engram
