// A hostile tokenizer.json, then a short text through it. The first byte chooses how the rest is read:
//   F  the whole file          P  a merge patch on a good file          R  a Split pattern
// up to the first NUL, behind which the text stands. What parses must encode within its vocabulary, decode, and build
// a token map; text that is not UTF-8 must be refused.
#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "engram/core/json.h"
#include "engram/hash/token_map.h"
#include "engram/text/model_lists.h"
#include "engram/text/tokenizer.h"
#include "engram/text/unicode.h"

namespace {

using nlohmann::json;
constexpr size_t kMaxText = 64;

const json& good_file() {
  static const json file = [] {
    json value = json::parse(engram::Tokenizer::byte_level_json({"<s>", "</s>"}));
    json& vocab = value["model"]["vocab"];
    int next = static_cast<int>(vocab.size());
    for (const char* token : {"ab", "aba", "abab", "\u0120a"}) vocab[token] = next++;
    value["model"]["merges"] = {"a b", {"ab", "a"}, "aba b", {"\u0120", "a"}};
    return value;
  }();
  return file;
}

std::string file_text(char mode, std::string_view part) {
  if (mode == 'F') return std::string(part);
  json file = good_file();
  if (mode == 'P') {
    engram::Result<json> patch = engram::parse_json(part, "patch");
    if (!patch.ok()) return "";
    file.merge_patch(*patch);
  } else {
    if (engram::find_invalid_utf8(part) != std::string_view::npos) return "";
    const json split = {
        {"type", "Split"}, {"pattern", {{"Regex", std::string(part)}}}, {"behavior", "Isolated"}, {"invert", false}};
    file["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {split, file["pre_tokenizer"]}}};
  }
  return file.dump();
}

void check(bool holds) {
  if (!holds) __builtin_trap();
}

void use(const engram::Tokenizer& tokenizer, std::string_view text) {
  engram::Result<std::vector<int32_t>> ids = tokenizer.encode(text, true);
  if (engram::find_invalid_utf8(text) != std::string_view::npos) check(!ids.ok());
  if (!ids.ok()) return;
  check(std::all_of(ids->begin(), ids->end(), [&](int32_t id) { return id >= 0 && id < tokenizer.vocab_size(); }));
  engram::Result<std::string> decoded = tokenizer.decode(*ids);
  check(decoded.ok() && engram::find_invalid_utf8(*decoded) == std::string_view::npos);
}

// The fast reader of the long lists and the DOM agree on what is JSON and on what the lists hold.
void compare_readers(std::string_view text) {
  const auto split = engram::split_tokenizer_file(text);
  if (!split) return;
  const engram::Result<json> whole = engram::parse_json(text, "whole"), rest = engram::parse_json(split->rest, "rest");
  if (!whole.ok()) {
    check(!rest.ok() || whole.status().message().find("appears twice") != std::string::npos);
    return;
  }
  check(rest.ok());
  const json& vocab = whole->at("model").at("vocab");
  check(vocab.size() == split->lists.vocabulary.size());
  for (const auto& token : split->lists.vocabulary) check(vocab.at(std::string(token.text)) == token.id);
  check(whole->at("model").at("merges").size() >= split->lists.merges.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(input.find('\0', 1), size);
  std::string_view text = input.substr(std::min(end + 1, size)).substr(0, kMaxText);
  const std::string file = file_text(input[0], input.substr(1, end - 1));
  compare_readers(file);
  engram::Result<engram::Tokenizer> tokenizer = engram::Tokenizer::parse(file, "fuzz");
  if (!tokenizer.ok()) return 0;
  use(*tokenizer, text);
  check(engram::TokenMap::from_tokenizer(*tokenizer).ok());
  return 0;
}
