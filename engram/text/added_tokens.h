// AddedTokens: the tokens of `added_tokens`, recognised in a text before it is split (<|endoftext|>, ...).
//
// Two sets: tokens with normalized = false are looked for in the text as it is, the others, normalized themselves, in
// what the normalizer makes of the rest. Immutable after parse(); threads may share one. Move-only.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "engram/core/status.h"
#include "engram/text/normalizer.h"

namespace engram {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  std::string pattern;  // what is looked for: content, or its normal form
  bool single_word = false, lstrip = false, rstrip = false, normalized = false, special = false;
  bool operator==(const AddedToken&) const = default;
};

// A slice of text that is one added token (id >= 0) or text between (id = -1).
struct TokenSlice {
  size_t begin, end;
  int32_t id;
};

class AddedTokens {
 public:
  // `value` is the array, or null. kInvalidArgument: a field of the wrong type, a token given twice in different
  // ways, two with one normal form. A token without text is left out, as in `tokenizers`.
  static Result<AddedTokens> parse(const nlohmann::json& value, const Normalizer& normalizer, const std::string& name);
  AddedTokens(AddedTokens&&) = default;
  AddedTokens& operator=(AddedTokens&&) = default;

  // In the file's order, without what appears again. Ids are the caller's to set.
  std::vector<AddedToken>& tokens() { return tokens_; }
  // Slices of `text` that cover it, except for overlaps at lstrip and rstrip. Leftmost, longest matches.
  std::vector<TokenSlice> slice(std::string_view text, bool normalized) const;
  // True when no token can hold or take a line feed that stands before another token or text.
  bool may_cut_behind_line_feeds() const;

 private:
  AddedTokens() = default;
  // The tokens of one set sorted by pattern: a match walks a range of them down byte by byte.
  struct Set {
    std::vector<const AddedToken*> sorted;
    bool starts[256] = {};
    const AddedToken* longest_at(std::string_view text, size_t at) const;
  };
  Status build_set(bool normalized, const std::string& where);

  std::vector<AddedToken> tokens_;
  Set sets_[2];  // by `normalized`
};

}  // namespace engram
