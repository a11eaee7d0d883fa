#include <memory>

#include "engram/model/convert/source_model.h"
#include "engram/text/gguf_vocabulary.h"

namespace engram {
namespace {

constexpr uint64_t kMostTokens = 1 << 24;

// tokenizer.ggml.KEY into `out` where the file has it, as the elements' own type.
template <typename Read, typename Value>
Status read_if(const GgufFile& file, const std::string& key, const Read& read, Value& out) {
  const std::string whole = "tokenizer.ggml." + key;
  if (!file.has(whole)) return {};
  ENGRAM_ASSIGN_OR_RETURN(const auto got, read(whole));
  if constexpr (requires { got.begin(); } && !std::is_same_v<Value, std::string>) {
    out.assign(got.begin(), got.end());
  } else {
    out = static_cast<Value>(got);
  }
  return {};
}

Result<GgufVocabulary> read_vocabulary(const GgufFile& file) {
  const auto text = [&](const std::string& key) { return file.string(key); };
  const auto texts = [&](const std::string& key) { return file.strings(key, kMostTokens); };
  const auto integer = [&](const std::string& key) { return file.integer(key); };
  GgufVocabulary out;
  if (!file.has("tokenizer.ggml.tokens"))
    return invalid_argument("{}: no key tokenizer.ggml.tokens: the file has no tokenizer", file.path());
  ENGRAM_RETURN_IF_ERROR(read_if(file, "model", text, out.model));
  ENGRAM_RETURN_IF_ERROR(read_if(file, "pre", text, out.pre));
  ENGRAM_RETURN_IF_ERROR(read_if(file, "tokens", texts, out.tokens));
  ENGRAM_RETURN_IF_ERROR(read_if(file, "merges", texts, out.merges));
  ENGRAM_RETURN_IF_ERROR(read_if(
      file, "scores", [&](const std::string& key) { return file.numbers(key, kMostTokens); }, out.scores));
  ENGRAM_RETURN_IF_ERROR(read_if(
      file, "token_type", [&](const std::string& key) { return file.integers(key, kMostTokens); }, out.token_type));
  ENGRAM_RETURN_IF_ERROR(read_if(file, "bos_token_id", integer, out.bos_token_id));
  ENGRAM_RETURN_IF_ERROR(read_if(file, "eos_token_id", integer, out.eos_token_id));
  ENGRAM_RETURN_IF_ERROR(read_if(file, "unknown_token_id", integer, out.unknown_token_id));
  bool add = false;
  for (const auto& [key, to] :
       {std::pair("add_bos_token", &out.add_bos_token), {"add_eos_token", &out.add_eos_token}}) {
    ENGRAM_RETURN_IF_ERROR(read_if(
        file, key, [&](const std::string& name) { return file.boolean(name); }, add));
    if (file.has(std::string("tokenizer.ggml.") + key)) *to = add;
  }
  ENGRAM_RETURN_IF_ERROR(read_if(
      file, "add_space_prefix", [&](const std::string& key) { return file.boolean(key); }, out.add_space_prefix));
  return out;
}

}  // namespace

Result<SourceModel> open_gguf_model(Env& env, const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(GgufFile opened, GgufFile::open(env, path));
  const auto file = std::make_shared<GgufFile>(std::move(opened));
  ENGRAM_ASSIGN_OR_RETURN(SourceModel out, read_gguf_model(*file));
  ENGRAM_ASSIGN_OR_RETURN(const GgufVocabulary vocabulary, read_vocabulary(*file));
  ENGRAM_ASSIGN_OR_RETURN(Tokenizer tokenizer, tokenizer_of(vocabulary, path));
  ENGRAM_RETURN_IF_ERROR(set_tokenizer(std::move(tokenizer), out).with_context(path));
  out.check_unchanged = [file] { return file->readable(); };
  return out;
}

}  // namespace engram
