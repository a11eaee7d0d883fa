#include "engram/text/added_tokens.h"

#include <algorithm>
#include <unordered_map>

#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/text/unicode.h"

namespace engram {
namespace {

Result<AddedToken> parse_token(const nlohmann::json& value, const Normalizer& normalizer, const std::string& where) {
  AddedToken token;
  Fields fields(value, where);
  fields.need("id", token.id, 0, INT32_MAX - 1);
  fields.need("content", token.content);
  fields.need("single_word", token.single_word);
  fields.need("lstrip", token.lstrip);
  fields.need("rstrip", token.rstrip);
  fields.need("normalized", token.normalized);
  fields.need("special", token.special);
  ENGRAM_RETURN_IF_ERROR(fields.status());
  token.pattern = token.content;
  if (token.normalized) {
    Result<std::string> normal = normalizer.apply(token.content);
    if (!normal.ok()) return normal.status().with_context(where);
    token.pattern = std::move(*normal);
  }
  if (token.pattern.empty() && !token.content.empty())
    return invalid_argument("{}: the normal form of {} is empty", where, quote_text(token.content));
  return token;
}

bool is_single_word(std::string_view text, size_t begin, size_t end) {
  size_t before = begin, after = end;
  if (begin > 0 && is_word_character(previous_code_point(text, before))) return false;
  return end == text.size() || !is_word_character(next_code_point(text, after));
}

}  // namespace

Result<AddedTokens> AddedTokens::parse(const nlohmann::json& value, const Normalizer& normalizer,
                                       const std::string& name) {
  const std::string where = name + ": added_tokens";
  AddedTokens added;
  if (value.is_null()) return added;
  if (!value.is_array()) return invalid_argument("{}: got {}, wanted an array", where, value.type_name());
  std::unordered_map<std::string, size_t> places;
  for (size_t i = 0; i < value.size(); ++i) {
    ENGRAM_ASSIGN_OR_RETURN(AddedToken token, parse_token(value[i], normalizer, fmt::format("{}[{}]", where, i)));
    if (token.content.empty()) continue;
    const auto [place, fresh] = places.emplace(token.content, added.tokens_.size());
    if (!fresh) {
      AddedToken& known = added.tokens_[place->second];
      token.id = known.id;
      if (token == known) continue;
      return invalid_argument("{}: the token {} appears twice, in different ways", where, quote_text(token.content));
    }
    added.tokens_.push_back(std::move(token));
  }
  ENGRAM_RETURN_IF_ERROR(added.build_set(false, where));
  ENGRAM_RETURN_IF_ERROR(added.build_set(true, where));
  return added;
}

Status AddedTokens::build_set(bool normalized, const std::string& where) {
  Set& set = sets_[normalized];
  for (const AddedToken& token : tokens_) {
    if (token.normalized != normalized) continue;
    set.sorted.push_back(&token);  // tokens_ does not change any more, and a move keeps its elements
    set.starts[static_cast<unsigned char>(token.pattern[0])] = true;
  }
  std::sort(set.sorted.begin(), set.sorted.end(),
            [](const AddedToken* a, const AddedToken* b) { return a->pattern < b->pattern; });
  auto twin = std::adjacent_find(set.sorted.begin(), set.sorted.end(),
                                 [](const AddedToken* a, const AddedToken* b) { return a->pattern == b->pattern; });
  if (twin != set.sorted.end()) {
    return invalid_argument("{}: {} and {} have one normal form", where, quote_text((*twin)->content),
                            quote_text((*(twin + 1))->content));
  }
  return Status();
}

const AddedToken* AddedTokens::Set::longest_at(std::string_view text, size_t at) const {
  const AddedToken* longest = nullptr;
  auto low = sorted.begin(), high = sorted.end();
  for (size_t depth = 0; low != high && at + depth < text.size(); ++depth) {
    // In [low, high) all patterns share the first `depth` bytes and are longer than that.
    auto byte = static_cast<unsigned char>(text[at + depth]);
    auto byte_of = [depth](const AddedToken* token) { return static_cast<unsigned char>(token->pattern[depth]); };
    low = std::lower_bound(low, high, byte, [&](const AddedToken* token, int b) { return byte_of(token) < b; });
    high = std::upper_bound(low, high, byte, [&](int b, const AddedToken* token) { return b < byte_of(token); });
    if (low != high && (*low)->pattern.size() == depth + 1) longest = *low++;
  }
  return longest;
}

std::vector<TokenSlice> AddedTokens::slice(std::string_view text, bool normalized) const {
  const Set& set = sets_[normalized];
  std::vector<TokenSlice> slices;
  size_t covered = 0;
  for (size_t at = 0; !set.sorted.empty() && at < text.size();) {
    const AddedToken* token = set.starts[static_cast<unsigned char>(text[at])] ? set.longest_at(text, at) : nullptr;
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at, end = at + token->pattern.size();
    at = end;  // also behind a match that is not a single word
    if (token->single_word && !is_single_word(text, begin, end)) continue;
    if (token->lstrip) {
      for (size_t before = begin; before > 0 && is_white_space(previous_code_point(text, before));) begin = before;
      begin = std::max(begin, covered);
    }
    if (token->rstrip) {
      for (size_t after = end; after < text.size() && is_white_space(next_code_point(text, after));) end = after;
    }
    if (begin >= end) continue;  // white space that the token before has taken
    if (covered < begin) slices.push_back({covered, begin, -1});
    slices.push_back({begin, end, token->id});
    covered = end;
  }
  if (covered != text.size()) slices.push_back({covered, text.size(), -1});
  return slices;
}

bool AddedTokens::may_cut_behind_line_feeds() const {
  return std::none_of(tokens_.begin(), tokens_.end(), [](const AddedToken& token) {
    return token.lstrip || token.pattern.find('\n') != std::string::npos;
  });
}

}  // namespace engram
