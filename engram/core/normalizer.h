// Normalizer: the `normalizer` of a tokenizer.json, what happens to text before it is split.
//
// NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Strip, Prepend, Replace (of a string) and Sequence; others are
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
  // `text` is valid UTF-8, and so is the result.
  std::string apply(std::string_view text) const;

 private:
  Status add(const nlohmann::json& value, const std::string& where);

  std::vector<std::function<std::string(std::string_view)>> steps_;
};

}  // namespace engram
