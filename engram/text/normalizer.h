// Normalizer: the `normalizer` of a tokenizer.json, what happens to text before it is split.
//
// NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Strip, Prepend, Replace and Sequence; others are
// refused by name. Immutable; threads may share one.
#pragma once
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "engram/core/status.h"

namespace engram {

class Normalizer {
 public:
  // `value` may be null. kInvalidArgument names `where` and the part.
  static Result<Normalizer> parse(const nlohmann::json& value, const std::string& where);

  bool empty() const { return steps_.empty(); }
  // `text` is valid UTF-8, and so is the result. kResourceExhausted: it would be longer than most_bytes(), or
  // a pattern backtracks too much.
  Result<std::string> apply(std::string_view text) const;
  // Normal forms make at most 18 bytes of one; steps that each double a text would end all memory.
  static size_t most_bytes(size_t text_bytes) { return 64 * text_bytes + 1024; }
  // True when the normal form of a text is proven to be those of its two parts, cut behind a line feed between two
  // printable ASCII characters, which stay such characters.
  bool may_cut_behind_line_feeds() const { return may_cut_; }
  // True where the normal form may begin with something else than the text's first character.
  bool may_move_first() const { return may_move_first_; }

 private:
  Status add(const nlohmann::json& value, const std::string& where);

  // A step may stop once what it makes is longer than the limit.
  std::vector<std::function<Result<std::string>(std::string_view text, size_t limit)>> steps_;
  bool may_cut_ = true, may_move_first_ = false;
};

}  // namespace engram
