// Bpe: byte pair encoding, the `model` of a tokenizer.json.
//
// A word is text, or, byte-level, raw bytes that the vocabulary spells in its alphabet (byte_alphabet.h). Merges are
// applied by rank, leftmost first, with a heap: O(n log n) in the word's length. Short words are remembered.
// Immutable after parse() except for the cache, which is thread-safe. Move-only.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
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

class WordCache;
struct TextHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};

class Bpe {
 public:
  // `lists` are the model's vocabulary and merges, null where they are in `model` itself. Adds the vocabulary to
  // `tokens`, by id; ids may have holes. `name` is the file's, for messages. kInvalidArgument: a field that is missing,
  // inconsistent or not supported. REQUIRES: tokens is empty.
  static Result<Bpe> parse(const nlohmann::json& model, const ModelLists* lists, bool byte_level,
                           const std::string& name, TokenIndex& tokens);
  ~Bpe();
  Bpe(Bpe&&) noexcept;
  Bpe& operator=(Bpe&&) noexcept;

  // Appends the word's ids. A character that the vocabulary lacks gives its bytes' tokens "<0xNN>" with byte_fallback,
  // else unk_token, or nothing without one (as in `tokenizers`). REQUIRES: word.size() < 2^31.
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
  Status set_symbols(const TokenIndex& tokens, const std::string& where);
  void add_merge(int32_t left, int32_t right, uint32_t rank, int32_t merged);
  const Merge* find_merge(int32_t left, int32_t right) const;
  void merge_word(std::string_view word, std::vector<int32_t>& ids) const;
  std::vector<int32_t> split_symbols(std::string_view word) const;

  using Ids = std::unordered_map<std::string, int32_t, TextHash, std::equal_to<>>;

  Ids whole_words_;                      // filled with ignore_merges only; byte-level: by raw bytes
  Ids characters_;                       // tokens of one character, where the model is not byte-level
  std::vector<Merge> merges_;            // open addressing, a power of two
  std::array<int32_t, 256> byte_ids_{};  // byte-level, and ASCII otherwise. -1: not in the vocabulary
  std::array<int32_t, 256> fallback_{};  // of "<0xNN>"; -1
  std::optional<std::string> unk_token_;
  int32_t unk_id_ = -1;
  bool byte_level_ = false, fuse_unk_ = false, ignore_merges_ = false, byte_fallback_ = false;
  std::unique_ptr<WordCache> cache_;
};

}  // namespace engram
