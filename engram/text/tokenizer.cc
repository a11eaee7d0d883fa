#include "engram/text/tokenizer.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <unordered_map>

#include "engram/core/fields.h"
#include "engram/core/file_kind.h"
#include "engram/core/json.h"
#include "engram/core/sha256.h"
#include "engram/text/added_tokens.h"
#include "engram/text/bpe.h"
#include "engram/text/byte_alphabet.h"
#include "engram/text/decoder.h"
#include "engram/text/model_lists.h"
#include "engram/text/normalizer.h"
#include "engram/text/post_processor.h"
#include "engram/text/pre_tokenizer.h"
#include "engram/text/token_index.h"
#include "engram/text/tokenizer_file.h"
#include "engram/text/unicode.h"

namespace engram {

struct Tokenizer::Impl {
  std::string json;
  Normalizer normalizer;
  Decoder decoder;
  std::optional<AddedTokens> added;
  std::optional<PreTokenizer> pre_tokenizer;
  std::optional<Bpe> bpe;
  PostProcessor post_processor;

  TokenIndex tokens;                                     // strings as they stand in the file
  std::unordered_map<int32_t, std::string> added_forms;  // what added tokens decode to, where it is another string
  std::vector<bool> special;                             // by id
  std::string digest;

  Status read(const nlohmann::json& file, const ModelLists* lists, const std::string& name);
  Status number_tokens(const std::string& name);
  void set_digest();
  const std::string& decoded_form(int32_t id) const {
    const auto found = added_forms.find(id);
    return found != added_forms.end() ? found->second : string_of(id);
  }
  const std::string& string_of(int32_t id) const {
    static const std::string none;
    return static_cast<size_t>(id) < tokens.size() ? tokens[id] : none;
  }
  Status encode_plain(std::string_view text, bool first, std::vector<int32_t>& out) const;
};

namespace {

const nlohmann::json& field(const nlohmann::json& file, const char* key) {
  static const nlohmann::json null;
  const nlohmann::json* value = json_find(file, key);
  return value ? *value : null;
}

Status check_envelope(const nlohmann::json& file, const std::string& name) {
  std::string version = "1.0";
  Fields fields(file, name);
  fields("version", version);
  fields.skip({"added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model"});
  fields.skip({"truncation", "padding"});  // of batches, which are the caller's
  if (version != "1.0") fields.fail("version", fmt::format("got {}, wanted '1.0'", quote_text(version)));
  return fields.finish();
}

}  // namespace

// `lists`: as in Bpe::parse().
Status Tokenizer::Impl::read(const nlohmann::json& file, const ModelLists* lists, const std::string& name) {
  ENGRAM_RETURN_IF_ERROR(check_envelope(file, name));
  ENGRAM_ASSIGN_OR_RETURN(decoder, Decoder::parse(field(file, "decoder"), name + ": decoder"));
  ENGRAM_ASSIGN_OR_RETURN(normalizer, Normalizer::parse(field(file, "normalizer"), name + ": normalizer"));
  ENGRAM_ASSIGN_OR_RETURN(pre_tokenizer, PreTokenizer::parse(field(file, "pre_tokenizer"), name + ": pre_tokenizer"));
  if (pre_tokenizer->looks_at_first() && normalizer.may_move_first())
    return invalid_argument("{}: Metaspace with the prepend_scheme 'first' behind this normalizer is not supported",
                            name);
  ENGRAM_ASSIGN_OR_RETURN(added, AddedTokens::parse(field(file, "added_tokens"), normalizer, name));
  ENGRAM_ASSIGN_OR_RETURN(bpe, Bpe::parse(field(file, "model"), lists, pre_tokenizer->byte_level(), name, tokens));
  ENGRAM_RETURN_IF_ERROR(number_tokens(name));
  const auto vocab_size = static_cast<int64_t>(tokens.size());
  ENGRAM_ASSIGN_OR_RETURN(post_processor,
                          PostProcessor::parse(field(file, "post_processor"), vocab_size, name + ": post_processor"));
  set_digest();
  return Status();
}

// As `tokenizers` numbers them, whatever the file says: added tokens that are not of the model come behind the number
// of its tokens and behind one another.
Status Tokenizer::Impl::number_tokens(const std::string& name) {
  auto next = static_cast<int32_t>(tokens.count());
  for (AddedToken& token : added->tokens()) {
    token.id = tokens.find(token.content);
    if (token.id < 0) token.id = next;
    if (!tokens.set(token.content, token.id)) {
      return invalid_argument("{}: added_tokens: {} gets the id {}, which is that of {}", name,
                              quote_text(token.content), token.id, quote_text(tokens[token.id]));
    }
    next = std::max(next, token.id + 1);
  }
  if (tokens.size() == 0) return invalid_argument("{}: no tokens in it", name);
  special.resize(tokens.size());
  for (const AddedToken& token : added->tokens()) special[static_cast<size_t>(token.id)] = token.special;
  return Status();
}

void Tokenizer::Impl::set_digest() {
  Sha256 sha;
  for (const std::string& token : tokens.strings()) {
    char length[4];
    for (int i = 0; i < 4; ++i) length[i] = static_cast<char>(token.size() >> 8 * i);
    sha.update(length, sizeof length);
    sha.update(token);
  }
  digest = sha.hex();
  for (const AddedToken& token : added->tokens())
    if (token.pattern != token.content) added_forms[token.id] = token.pattern;
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Result<Tokenizer> Tokenizer::load(Env& env, const std::string& path) {
  constexpr int64_t kMostBytes = int64_t{256} << 20;
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, env.read_file(path, {.max_bytes = kMostBytes}));
  ENGRAM_RETURN_IF_ERROR(check_not_foreign(text, path));
  return parse(text, path);
}

Result<Tokenizer> Tokenizer::parse(std::string_view json, const std::string& name) {
  if (const auto split = split_tokenizer_file(json)) {
    const Result<nlohmann::json> rest = parse_json(split->rest, name);
    auto impl = std::make_unique<Impl>();
    if (rest.ok() && impl->read(*rest, &split->lists, name).ok()) {
      impl->json = json;
      return Tokenizer(std::move(impl));
    }
  }
  // What is wrong is said by the plain way, which also takes what the fast one does not.
  ENGRAM_ASSIGN_OR_RETURN(nlohmann::json file, parse_json(json, name));
  auto impl = std::make_unique<Impl>();
  ENGRAM_RETURN_IF_ERROR(impl->read(file, nullptr, name));
  impl->json = json;
  return Tokenizer(std::move(impl));
}

std::string Tokenizer::byte_level_json(const std::vector<std::string>& special_tokens) {
  nlohmann::json file = bpe_file_json();
  nlohmann::json& vocab = file["model"]["vocab"];
  int next = 0;
  for (const std::string& token : special_tokens) {
    file["added_tokens"].emplace_back(added_token_json(next, token, /*special=*/true));
    vocab[token] = next++;
  }
  for (int byte = 0; byte < 256; ++byte) {
    const char raw = static_cast<char>(byte);
    vocab[byte_level_encode(std::string_view(&raw, 1))] = next++;
  }
  file["pre_tokenizer"] = file["decoder"] = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  return file.dump(1, ' ', false, nlohmann::json::error_handler_t::replace);
}

Status Tokenizer::Impl::encode_plain(std::string_view text, bool first, std::vector<int32_t>& out) const {
  std::vector<std::string_view> words;
  std::deque<std::string> storage;
  ENGRAM_RETURN_IF_ERROR(pre_tokenizer->split(text, first, words, storage));
  for (std::string_view word : words) bpe->encode_word(word, out);
  return Status();
}

Result<std::vector<int32_t>> Tokenizer::encode(std::string_view text, bool add_special) const {
  if (text.size() >= size_t{1} << 31) {
    return invalid_argument("text of {} bytes, wanted less than 2 GiB; encode it in parts", text.size());
  }
  if (size_t at = find_invalid_utf8(text); at != std::string_view::npos) {
    return invalid_argument("text is not valid UTF-8 at byte {} (0x{:02x})", at, static_cast<unsigned char>(text[at]));
  }
  std::vector<int32_t> ids;
  for (const TokenSlice& outer : impl_->added->slice(text, false)) {
    if (outer.id >= 0) {
      ids.push_back(outer.id);
      continue;
    }
    std::string_view piece = text.substr(outer.begin, outer.end - outer.begin);
    std::string normalized;
    if (!impl_->normalizer.empty()) {
      ENGRAM_ASSIGN_OR_RETURN(normalized, impl_->normalizer.apply(piece));
      piece = normalized;
    }
    for (const TokenSlice& inner : impl_->added->slice(piece, true)) {
      if (inner.id >= 0) {
        ids.push_back(inner.id);
      } else {
        ENGRAM_RETURN_IF_ERROR(impl_->encode_plain(piece.substr(inner.begin, inner.end - inner.begin),
                                                   outer.begin == 0 && inner.begin == 0, ids));
      }
    }
  }
  return add_special ? impl_->post_processor.apply(std::move(ids)) : std::move(ids);
}

Result<std::string> Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::vector<std::string> strings;
  strings.reserve(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size()) {
      return Status(StatusCode::kOutOfRange,
                    fmt::format("id {} at position {}, wanted 0 .. {}", ids[i], i, vocab_size() - 1));
    }
    const bool is_token = static_cast<size_t>(ids[i]) < impl_->tokens.size() && impl_->tokens.has(ids[i]);
    if ((skip_special && is_special(ids[i])) || !is_token) continue;
    strings.push_back(impl_->decoded_form(ids[i]));
  }
  return impl_->decoder.decode(std::move(strings));
}

std::string Tokenizer::token_bytes(int32_t id) const {
  ENGRAM_CHECK(id >= 0 && id < vocab_size(), "id={} vocab_size={}", id, vocab_size());
  return impl_->decoder.token_bytes(impl_->decoded_form(id));
}

void Tokenizer::fill_up(int vocab_size) { impl_->special.resize(static_cast<size_t>(vocab_size), true); }

int Tokenizer::vocab_size() const { return static_cast<int>(impl_->special.size()); }

const std::string& Tokenizer::token_string(int32_t id) const {
  ENGRAM_CHECK(id >= 0 && id < vocab_size(), "id={} vocab_size={}", id, vocab_size());
  return impl_->string_of(id);
}

int32_t Tokenizer::token_id(std::string_view token) const { return impl_->tokens.find(token); }

bool Tokenizer::is_special(int32_t id) const {
  return id >= 0 && id < vocab_size() && impl_->special[static_cast<size_t>(id)];
}

const std::string& Tokenizer::vocabulary_digest() const { return impl_->digest; }
const std::string& Tokenizer::json() const { return impl_->json; }

}  // namespace engram
