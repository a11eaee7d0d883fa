// Tokenizer: a BPE read from a Hugging Face tokenizer.json, byte-level (GPT-2, Llama 3, Qwen, DeepSeek) or of
// SentencePiece's kind (Llama 2, Mistral, Gemma). docs/tokenizers.md lists models.
//
// The parts: normalizer.h, added_tokens.h, pre_tokenizer.h, bpe.h, post_processor.h, decoder.h. What is not supported
// is refused by name. Ids and texts equal those of the Python package `tokenizers`; truncation and padding, which are
// about batches, are not applied. Immutable after load(); threads may share one. Move-only.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram {

class Tokenizer {
 public:
  // kNotFound, kDataLoss (not JSON), kInvalidArgument (a part that is missing, inconsistent or not supported).
  static Result<Tokenizer> load(Env& env, const std::string& path);
  static Result<Tokenizer> parse(std::string_view json, const std::string& name);
  // The given special tokens (ids 0, 1, ...) plus 256 byte tokens and no merges: the tokenizer of self-contained
  // recipes and tests. Returns the tokenizer.json text. REQUIRES: special tokens are distinct, valid UTF-8 of two or
  // more characters.
  static std::string byte_level_json(const std::vector<std::string>& special_tokens);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // Added tokens inside the text are recognised. add_special also runs the file's post-processor (BOS, ...).
  // kInvalidArgument: text is not valid UTF-8 (with the byte offset) or over 2 GiB. kResourceExhausted: a pattern of
  // the file backtracks too much.
  Result<std::vector<int32_t>> encode(std::string_view text, bool add_special = false) const;
  // kOutOfRange: an id outside the vocabulary; one that no token has gives nothing. Incomplete UTF-8 becomes U+FFFD, as
  // in `tokenizers`.
  // skip_special leaves out every special token, also one that the normalizer changes (which `tokenizers` keeps).
  Result<std::string> decode(std::span<const int32_t> ids, bool skip_special = false) const;
  // The raw bytes of one token (for streaming decode). REQUIRES: 0 <= id < vocab_size().
  std::string token_bytes(int32_t id) const;

  // Ids up to a model's last one, which no token has: special, empty, and in no text. The digest stays.
  void fill_up(int vocab_size);

  int vocab_size() const;                             // with added tokens: one more than the largest id
  const std::string& token_string(int32_t id) const;  // as in the vocabulary; "" for an id that no token has
  int32_t token_id(std::string_view token) const;     // -1 when there is none
  bool is_special(int32_t id) const;
  // SHA-256 of the vocabulary (token strings in id order, each after its length in bytes as little-endian uint32):
  // what shards and checkpoints are matched by.
  const std::string& vocabulary_digest() const;
  const std::string& json() const;  // the file's own text, to save beside a checkpoint

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace engram
