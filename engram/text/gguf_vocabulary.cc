#include "engram/text/gguf_vocabulary.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string_view>
#include <tuple>
#include <unordered_map>

#include "engram/core/json.h"
#include "engram/text/tokenizer_file.h"

namespace engram {
namespace {

using nlohmann::json;

enum TokenType { kUnknown = 2, kControl = 3, kUserDefined = 4 };

// Patterns and flags of the models' own files.
struct PreTokenizers {
  std::vector<std::string_view> names;  // tokenizer.ggml.pre
  std::vector<json> stages;             // before ByteLevel
  bool byte_level_regex = false, ignore_merges = false, nfc = false;
  std::vector<json> behind = {};  // behind ByteLevel
};

json split(std::string_view pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}
json digits(bool individual) { return {{"type", "Digits"}, {"individual_digits", individual}}; }
json byte_level(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

const std::string kContractions = R"((?i:'s|'t|'re|'ve|'m|'ll|'d))";
const std::string kSpaces = R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

// Words in which lower case follows upper case.
std::string cased_words(const std::string& only = "", const std::string& end = "") {
  const std::string before = R"([^\r\n\p{L}\p{N}]?)", upper = R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M})" + only + "]",
                    lower = R"([\p{Ll}\p{Lm}\p{Lo}\p{M})" + only + "]";
  return before + upper + "*" + lower + "+" + end + "|" + before + upper + "+" + lower + "*" + end;
}

const std::vector<PreTokenizers>& known_pre_tokenizers() {
  static const std::vector<PreTokenizers> known = {
      {{"gpt-2", "phi-2", "mpt", "olmo", "jais"}, {}, true},
      {{"smollm", "starcoder", "refact", "codeshell", "exaone"}, {digits(true)}, true},
      {{"command-r"}, {digits(true)}, true, false, true},
      {{"llama-bpe", "llama-v3", "llama3"},
       {split(kContractions + R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)" + kSpaces)},
       false,
       true},
      {{"qwen2", "deepseek-r1-qwen"},
       {split(kContractions + R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)" + kSpaces)},
       false,
       false,
       true},
      {{"qwen35"},
       {split(kContractions + R"(|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*)" + kSpaces)},
       false,
       false,
       true},
      {{"tekken"}, {split(cased_words() + R"(|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*)" + kSpaces)}, false, true},
      {{"gpt-4o", "llama4"},
       {split(cased_words("", kContractions + "?") + R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*)" + kSpaces)}},
      {{"kimi-k2"},
       {split(R"([\p{Han}]+|)" + cased_words(R"(&&[^\p{Han}])", kContractions + "?") +
              R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)" + kSpaces)}},
      {{"deepseek-v3"},
       {split(R"(\p{N}{1,3})"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
        split(R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)"
              R"(| ?[\p{P}\p{S}]+[\r\n]*)" +
              kSpaces)}},
      {{"deepseek-coder"},
       {split(R"([\r\n])"), split(R"(\s?\p{L}+)"), split(R"(\s?\p{P}+)"),
        split("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"), digits(true)}},
      {{"falcon"},
       {{{"type", "Punctuation"}, {"behavior", "Contiguous"}}},
       true,
       false,
       false,
       {digits(false), split("[0-9][0-9][0-9]")}},
  };
  return known;
}

Status check_vocabulary(const GgufVocabulary& from, const std::string& name) {
  const size_t count = from.tokens.size();
  if (count == 0 || count >= size_t{1} << 31)
    return invalid_argument("{}: tokenizer.ggml.tokens: {} tokens", name, count);
  for (const auto& [key, size, needed] : {std::tuple("scores", from.scores.size(), from.model == "llama"),
                                          {"token_type", from.token_type.size(), from.model == "llama"}})
    if (size != count && (size != 0 || needed))
      return invalid_argument("{}: tokenizer.ggml.{}: got {} entries, wanted {}, one for each token", name, key, size,
                              count);
  for (const auto& [key, id] : {std::pair("bos_token_id", from.bos_token_id),
                                {"eos_token_id", from.eos_token_id},
                                {"unknown_token_id", from.unknown_token_id}})
    if (id < -1 || (id >= 0 && static_cast<size_t>(id) >= count))
      return invalid_argument("{}: tokenizer.ggml.{}: got {}, wanted an id below {}", name, key, id, count);
  return Status();
}

// All ways to make a token of two others, best score first, as Hugging Face's converter orders them.
json merges_of_scores(const GgufVocabulary& from) {
  std::unordered_map<std::string_view, int32_t> ids;
  for (size_t i = 0; i < from.tokens.size(); ++i) ids[from.tokens[i]] = static_cast<int32_t>(i);
  struct Merge {
    std::string_view left, right;
    float score;
    int32_t left_id, right_id;
    size_t left_length, right_length;  // in characters
  };
  std::vector<Merge> merges;
  const auto length = [](std::string_view text) {
    return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
  };
  for (size_t i = 0; i < from.tokens.size(); ++i) {
    const std::string_view token = from.tokens[i];
    const size_t first = merges.size();
    for (size_t at = 1; at < token.size(); ++at) {
      const auto left = ids.find(token.substr(0, at)), right = ids.find(token.substr(at));
      if (left == ids.end() || right == ids.end()) continue;
      merges.push_back({left->first, right->first, from.scores[i], left->second, right->second, length(left->first),
                        length(right->first)});
    }
    std::sort(merges.begin() + static_cast<std::ptrdiff_t>(first), merges.end(), [](const Merge& a, const Merge& b) {
      return std::tie(a.left_id, a.right_id) < std::tie(b.left_id, b.right_id);
    });
  }
  std::stable_sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) {
    return std::tie(a.score, a.left_length, a.right_length) > std::tie(b.score, b.left_length, b.right_length);
  });
  json out = json::array();
  for (const Merge& merge : merges) out.push_back({merge.left, merge.right});
  return out;
}

Status add_gpt2(const GgufVocabulary& from, const std::string& name, json& file) {
  const auto& known = known_pre_tokenizers();
  const auto pre = std::find_if(known.begin(), known.end(), [&](const PreTokenizers& one) {
    return std::find(one.names.begin(), one.names.end(), from.pre) != one.names.end();
  });
  if (pre == known.end()) {
    std::string names;
    for (const PreTokenizers& one : known)
      for (const std::string_view each : one.names) names += fmt::format("{}{}", names.empty() ? "" : ", ", each);
    return invalid_argument("{}: tokenizer.ggml.pre: got {}, wanted one of {}", name, quote_text(from.pre), names);
  }
  std::vector<json> stages = pre->stages;
  stages.push_back(byte_level(pre->byte_level_regex));
  stages.insert(stages.end(), pre->behind.begin(), pre->behind.end());
  file["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", stages}};
  file["normalizer"] = pre->nfc ? json{{"type", "NFC"}} : json();
  file["decoder"] = byte_level(pre->byte_level_regex);
  json& model = file["model"];
  model["ignore_merges"] = pre->ignore_merges;
  for (const std::string& line : from.merges) {
    const size_t blank = line.find(' ', 1);
    if (blank == std::string::npos)
      return invalid_argument("{}: tokenizer.ggml.merges: {} is not two tokens", name, quote_text(line));
    model["merges"].push_back({line.substr(0, blank), line.substr(blank + 1)});
  }
  return Status();
}

void add_llama(const GgufVocabulary& from, json& file) {
  constexpr const char* kBlank = "\u2581";
  const auto replace = [](const char* what, const char* with) {
    return json{{"type", "Replace"}, {"pattern", {{"String", what}}}, {"content", with}};
  };
  json steps = json::array(), decoders = {replace(kBlank, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
  if (from.add_space_prefix) {
    steps.push_back({{"type", "Prepend"}, {"prepend", kBlank}});
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  steps.push_back(replace(" ", kBlank));
  file["normalizer"] = {{"type", "Sequence"}, {"normalizers", steps}};
  file["pre_tokenizer"] = nullptr;
  file["decoder"] = {{"type", "Sequence"}, {"decoders", decoders}};
  json& model = file["model"];
  model["byte_fallback"] = model["fuse_unk"] = true;
  model["merges"] = merges_of_scores(from);
}

// <s> before a text and </s> behind it, where the file says so.
json post_processor_of(const GgufVocabulary& from) {
  json tokens = json::object();
  const auto piece = [](const char* kind, const std::string& id) { return json{{kind, {{"id", id}, {"type_id", 0}}}}; };
  const auto special = [&](int32_t id) {
    const std::string& token = from.tokens[static_cast<size_t>(id)];
    tokens[token] = {{"id", token}, {"ids", {id}}, {"tokens", {token}}};
    return piece("SpecialToken", token);
  };
  std::vector<json> pieces = {piece("Sequence", "A")};
  if (from.bos_token_id >= 0 && from.add_bos_token.value_or(from.model == "llama"))
    pieces.insert(pieces.begin(), special(from.bos_token_id));
  if (from.eos_token_id >= 0 && from.add_eos_token.value_or(false)) pieces.push_back(special(from.eos_token_id));
  if (tokens.empty()) return nullptr;
  std::vector<json> pair = pieces;
  pair.push_back(piece("Sequence", "B"));
  return {{"type", "TemplateProcessing"}, {"single", pieces}, {"pair", pair}, {"special_tokens", tokens}};
}

}  // namespace

Result<Tokenizer> tokenizer_of(const GgufVocabulary& from, const std::string& name) {
  ENGRAM_RETURN_IF_ERROR(check_vocabulary(from, name));
  json file = bpe_file_json();
  json& model = file["model"];
  for (size_t i = 0; i < from.tokens.size(); ++i) {
    if (!model["vocab"].emplace(from.tokens[i], i).second)
      return invalid_argument("{}: tokenizer.ggml.tokens: {} appears twice", name, quote_text(from.tokens[i]));
    const int32_t type = from.token_type.empty() ? 0 : from.token_type[i];
    if (type != kUnknown && type != kControl && type != kUserDefined) continue;
    const bool special = type != kUserDefined;
    file["added_tokens"].emplace_back(added_token_json(static_cast<int64_t>(i), from.tokens[i], special));
  }
  if (from.unknown_token_id >= 0) model["unk_token"] = from.tokens[static_cast<size_t>(from.unknown_token_id)];
  if (from.model == "gpt2") {
    ENGRAM_RETURN_IF_ERROR(add_gpt2(from, name, file));
  } else if (from.model == "llama") {
    add_llama(from, file);
  } else {
    return invalid_argument("{}: tokenizer.ggml.model: got {}, wanted 'gpt2' or 'llama'", name, quote_text(from.model));
  }
  file["post_processor"] = post_processor_of(from);
  return Tokenizer::parse(file.dump(-1, ' ', false, json::error_handler_t::replace), name);
}

}  // namespace engram
