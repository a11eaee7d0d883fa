// PreTokenizer: the `pre_tokenizer` of a tokenizer.json, which cuts text into the words that BPE merges within.
//
// A sequence of Split (every behavior, inverted or not) and Digits that ends in one ByteLevel; others are refused by
// name. Words come out as raw bytes; bpe.h spells bytes as the vocabulary does. Immutable; threads may
// share one. Move-only.
#pragma once
#include <deque>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "engram/core/status.h"
#include "engram/text/pattern.h"

namespace engram {

class PreTokenizer {
 public:
  // kInvalidArgument names `where` and the part.
  static Result<PreTokenizer> parse(const nlohmann::json& value, const std::string& where);
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;
  ~PreTokenizer();

  // Appends the words of `text` (valid UTF-8), none empty. They point into `text` or, with add_prefix_space, into
  // strings put into `storage`. kResourceExhausted: a pattern backtracks too much.
  Status split(std::string_view text, std::vector<std::string_view>& words, std::deque<std::string>& storage) const;

  // True when the words of a text are proven to be those of its two parts, cut as pattern_cuts.h says.
  bool may_cut_behind_line_feeds() const;

 private:
  struct Stage;
  PreTokenizer();
  Status add(const nlohmann::json& value, const std::string& where);
  Status add_split(const nlohmann::json& value, const std::string& where);
  Status add_byte_level(const nlohmann::json& value, const std::string& where);

  std::vector<Stage> stages_;  // Split and Digits
  bool has_byte_level_ = false, add_prefix_space_ = false;
  std::unique_ptr<Stage> byte_level_split_;  // with use_regex
};

}  // namespace engram
