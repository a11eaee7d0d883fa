// Replacement: `Replace` of a tokenizer.json, in normalizers and decoders. Immutable; threads may share one.
#pragma once
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "engram/core/status.h"
#include "engram/text/pattern.h"

namespace engram {

class Replacement {
 public:
  // {"pattern": {"String": ..} or {"Regex": ..}, "content": ..}. kInvalidArgument names `where` and the part.
  static Result<Replacement> parse(const nlohmann::json& value, const std::string& where);
  // Every match replaced. May stop once the result is longer than `limit`. kResourceExhausted: as Pattern::slice().
  Result<std::string> apply(std::string_view text, size_t limit = std::string::npos) const;

 private:
  Replacement(Pattern pattern, std::string content)
      : pattern_(std::make_shared<const Pattern>(std::move(pattern))), content_(std::move(content)) {}
  std::shared_ptr<const Pattern> pattern_;
  std::string content_;
};

}  // namespace engram
