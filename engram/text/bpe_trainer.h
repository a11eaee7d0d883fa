// BpeTrainer: a byte-level BPE tokenizer.json from text, as the package `tokenizers` trains one.
//
// Words are cut by the split patterns of DeepSeek's tokenizers (digits by up to three, runs of Chinese and kana, words
// with one leading space or mark, punctuation, line breaks, white space). Ids are the special tokens, the 256 bytes,
// then the merges by rank; the most frequent pair of a step is merged, of equal ones the one with the lower ids. The
// file equals the one that `tokenizers` writes for the same text, byte for byte (tests/apps/tokenizer_train_test.py).
// Memory is that of the distinct words: above a limit the rarest are forgotten. Not thread-safe.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engram/core/status.h"
#include "engram/text/pre_tokenizer.h"

namespace engram {

class BpeTrainer {
 public:
  static constexpr size_t kMaxWords = 10'000'000;  // distinct ones that are remembered: about 1 GB

  // special_tokens take the ids 0, 1, ... kInvalidArgument: one is empty, appears twice or is not UTF-8.
  static Result<BpeTrainer> create(std::vector<std::string> special_tokens, size_t max_words = kMaxWords);

  // Counts the words of a document. kInvalidArgument: not UTF-8.
  Status add(std::string_view document);
  int64_t forgotten_words() const { return forgotten_; }  // distinct words, at the limit

  // The tokenizer.json with at most `vocab_size` ids; fewer where the text gives no more pairs. on_merge is called with
  // the number of ids so far. kInvalidArgument: vocab_size is below the special tokens and the 256 bytes.
  Result<std::string> train(int vocab_size, const std::function<void(int)>& on_merge = {}) const;

 private:
  BpeTrainer(std::vector<std::string> special_tokens, PreTokenizer pre_tokenizer, size_t max_words);
  void forget_rare_words();

  std::vector<std::string> special_tokens_;
  PreTokenizer pre_tokenizer_;
  size_t max_words_;
  std::unordered_map<std::string, int64_t> counts_;
  int64_t forgotten_ = 0;
};

}  // namespace engram
