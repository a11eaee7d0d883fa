#include "engram/text/text_cuts.h"

#include "engram/core/json.h"
#include "engram/text/added_tokens.h"
#include "engram/text/normalizer.h"
#include "engram/text/pre_tokenizer.h"
#include "engram/text/unicode.h"

namespace engram {

TextCuts::TextCuts(const Tokenizer& tokenizer) {
  const Result<nlohmann::json> file = parse_json(tokenizer.json(), "tokenizer");
  if (!file.ok()) return;
  const auto part = [&](const char* key) {
    const nlohmann::json* value = json_find(*file, key);
    return value != nullptr ? *value : nlohmann::json();
  };
  const auto normalizer = Normalizer::parse(part("normalizer"), "normalizer");
  const auto pre_tokenizer = PreTokenizer::parse(part("pre_tokenizer"), "pre_tokenizer");
  if (!normalizer.ok() || !pre_tokenizer.ok()) return;
  const auto added = AddedTokens::parse(part("added_tokens"), *normalizer, "tokenizer");
  if (!added.ok()) return;
  any_ = normalizer->may_cut_behind_line_feeds() && pre_tokenizer->may_cut_behind_line_feeds() &&
         added->may_cut_behind_line_feeds();
  ascii_only_ = !normalizer->empty();  // it may make anything of others
}

bool TextCuts::may_cut(std::string_view text, size_t at) const {
  if (at == 0 || at == text.size()) return true;
  if (!any_ || at < 2 || text[at - 1] != '\n') return false;
  size_t before = at - 1, after = at;
  const char32_t left = previous_code_point(text, before), right = next_code_point(text, after);
  const auto is_text = [&](char32_t c) {
    if (c < 0x80) return c > ' ' && c < 0x7F;
    return !ascii_only_ && !is_white_space(c);
  };
  return is_text(left) && is_text(right) && right != '/';
}

}  // namespace engram
