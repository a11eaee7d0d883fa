// Contamination: is the text of a question in the training text?
//
// Compared are sequences of words (runs of letters and digits, ASCII lower-cased), so that tokenisation, punctuation
// and line breaks do not matter. A question is contaminated when any `kOverlapWords` consecutive words of it occur in
// the training text; a shorter one, when all its words occur there in a row. Words are kept as 64-bit hashes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <string_view>
#include <vector>

namespace engram {

inline constexpr size_t kOverlapWords = 8;

std::vector<uint64_t> word_hashes(std::string_view text);

// About 8 bytes a word, and as much again for each length of question below kOverlapWords that is asked for.
class WordIndex {
 public:
  explicit WordIndex(std::string_view training_text);
  // True when the question overlaps; false for one without words.
  bool overlaps(std::string_view question);

 private:
  const std::vector<uint64_t>& sequences(size_t length);  // sorted hashes of all `length` words in a row
  std::vector<uint64_t> words_;
  std::map<size_t, std::vector<uint64_t>> sorted_;
};

}  // namespace engram
