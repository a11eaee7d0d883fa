#include "engram/serve/prompt_limit.h"

#include <algorithm>
#include <bitset>
#include <nlohmann/json.hpp>

#include "engram/core/json.h"

namespace engram {
namespace {

using nlohmann::json;

// None, or a sequence of such.
bool does_nothing(const json* normalizer) {
  if (normalizer == nullptr) return true;
  const json* parts = json_find(*normalizer, "normalizers");
  return parts != nullptr &&
         std::all_of(parts->begin(), parts->end(), [](const json& part) { return does_nothing(&part); });
}

// The vocabulary and the merges are left out: they are nearly all of the file.
bool keeps_all_text(const std::string& tokenizer_json) {
  const json::parser_callback_t without_model = [](int depth, json::parse_event_t event, json& parsed) {
    return !(depth == 1 && event == json::parse_event_t::key && parsed == "model");
  };
  const json file = json::parse(tokenizer_json, without_model, /*allow_exceptions=*/false);
  if (!file.is_object() || !does_nothing(json_find(file, "normalizer"))) return false;
  const json* pre_tokenizer = json_find(file, "pre_tokenizer");
  if (pre_tokenizer != nullptr && pre_tokenizer->dump().find("\"Removed\"") != std::string::npos) return false;
  const json* added = json_find(file, "added_tokens");
  if (added == nullptr) return true;
  return std::none_of(added->begin(), added->end(),
                      [](const json& token) { return token.value("lstrip", false) || token.value("rstrip", false); });
}

}  // namespace

std::optional<size_t> most_prompt_bytes(const Tokenizer& tokenizer, int max_context) {
  if (!keeps_all_text(tokenizer.json())) return std::nullopt;
  size_t longest = 1;
  std::bitset<256> alone;  // bytes that are a token
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string bytes = tokenizer.token_bytes(id);
    longest = std::max(longest, bytes.size());
    if (bytes.size() == 1) alone.set(static_cast<unsigned char>(bytes[0]));
  }
  if (!alone.all()) return std::nullopt;
  return longest * static_cast<size_t>(std::max(max_context, 1));
}

}  // namespace engram
