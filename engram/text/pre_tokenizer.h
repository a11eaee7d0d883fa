// PreTokenizer: the `pre_tokenizer` of a tokenizer.json, which cuts text into the words that BPE merges within.
//
// Split (every behavior, inverted or not), Digits, Punctuation, Whitespace, WhitespaceSplit, CharDelimiterSplit,
// Metaspace, ByteLevel and sequences of them; others are refused by name. With ByteLevel, words come out as raw bytes
// (bpe.h spells bytes as the vocabulary does), else as text. Immutable; threads may share one. Move-only.
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
  // `value` may be null: the whole text is one word. kInvalidArgument names `where` and the part.
  static Result<PreTokenizer> parse(const nlohmann::json& value, const std::string& where);
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;
  ~PreTokenizer();

  // Appends the words of `text` (valid UTF-8), none empty. They point into `text` or into strings put into `storage`.
  // `first`: the text begins where the whole input does. kResourceExhausted: a pattern backtracks too much.
  Status split(std::string_view text, bool first, std::vector<std::string_view>& words,
               std::deque<std::string>& storage) const;

  bool byte_level() const { return byte_level_; }
  // The words depend on `first`.
  bool looks_at_first() const { return looks_at_first_; }
  // True when the words of a text are proven to be those of its two parts, cut as pattern_cuts.h says.
  bool may_cut_behind_line_feeds() const;

 private:
  struct Stage;
  PreTokenizer();
  Status add(const nlohmann::json& value, const std::string& where);
  Status add_split(const nlohmann::json& value, const std::string& where);
  Status add_metaspace(const nlohmann::json& value, const std::string& where);
  Status add_byte_level(const nlohmann::json& value, const std::string& where);

  std::vector<Stage> stages_;
  bool byte_level_ = false, metaspace_ = false, looks_at_first_ = false;
};

}  // namespace engram
