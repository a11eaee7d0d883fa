// Bpe: byte-level byte pair encoding, the `model` of a tokenizer.json.
//
// A word is raw bytes; the vocabulary spells them in GPT-2's alphabet of 256 printable characters. Merges are applied
// by rank, leftmost first, with a heap: O(n log n) in the word's length. Short words are remembered.
// Immutable after parse() except for the cache, which is thread-safe. Move-only.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engram/core/status.h"
#include "engram/text/model_lists.h"
#include "engram/text/token_index.h"

namespace engram {

// Bytes in GPT-2's alphabet (0x20 is U+0120, ...).
std::string byte_level_encode(std::string_view bytes);
// The bytes of a token; nullopt when a character is not of the alphabet. `token` is valid UTF-8.
std::optional<std::string> byte_level_decode(std::string_view token);

class WordCache;

class Bpe {
 public:
  // `lists` are the model's vocabulary and merges, null where they are in `model` itself. Adds the vocabulary to
  // `tokens`, by id. `name` is the file's, for messages. kInvalidArgument: a field that is missing, inconsistent or not
  // supported. REQUIRES: tokens is empty.
  static Result<Bpe> parse(const nlohmann::json& model, const ModelLists* lists, const std::string& name,
                           TokenIndex& tokens);
  ~Bpe();
  Bpe(Bpe&&) noexcept;
  Bpe& operator=(Bpe&&) noexcept;

  // Appends the word's ids. A byte that the vocabulary lacks gives unk_token, or nothing without one (as in
  // `tokenizers`). REQUIRES: word.size() < 2^31.
  void encode_word(std::string_view word, std::vector<int32_t>& ids) const;

 private:
  struct Merge {
    uint64_t pair = kNoPair;
    uint32_t rank = 0;
    int32_t merged = 0;
  };
  static constexpr uint64_t kNoPair = ~uint64_t{0};

  Bpe();
  Status read_options(const nlohmann::json& model, const std::string& where);
  Status read_merges(const ModelLists& lists, const TokenIndex& tokens, const std::string& where);
  Status set_bytes(const TokenIndex& tokens, const std::string& where);
  void add_merge(int32_t left, int32_t right, uint32_t rank, int32_t merged);
  const Merge* find_merge(int32_t left, int32_t right) const;
  void merge_word(std::string_view word, std::vector<int32_t>& ids) const;
  std::vector<int32_t> split_bytes(std::string_view word) const;

  std::unordered_map<std::string, int32_t> whole_words_;  // by raw bytes; filled with ignore_merges only
  std::vector<Merge> merges_;                             // open addressing, a power of two
  std::array<int32_t, 256> byte_ids_{};                   // -1: not in the vocabulary
  std::optional<std::string> unk_token_;
  int32_t unk_id_ = -1;
  bool fuse_unk_ = false, ignore_merges_ = false;
  std::unique_ptr<WordCache> cache_;
};

}  // namespace engram
