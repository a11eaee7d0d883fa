// PostProcessor: the `post_processor` of a tokenizer.json, the ids that --add-special puts around a text.
//
// TemplateProcessing (for one sequence), BertProcessing, RobertaProcessing, ByteLevel (which changes no ids) and
// Sequence; others are refused by name. Immutable; threads may share one.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engram/core/status.h"

namespace engram {

class PostProcessor {
 public:
  // `value` may be null. kInvalidArgument names `where` and the part, or an id not in [0, vocab_size).
  static Result<PostProcessor> parse(const nlohmann::json& value, int64_t vocab_size, const std::string& where);

  std::vector<int32_t> apply(std::vector<int32_t> ids) const;

 private:
  Status add(const nlohmann::json& value, int64_t vocab_size, const std::string& where);
  Status add_template(const nlohmann::json& value, int64_t vocab_size, const std::string& where);
  Status add_pair(const nlohmann::json& value, int64_t vocab_size, const std::string& where);

  std::vector<int32_t> prefix_, suffix_;
};

}  // namespace engram
