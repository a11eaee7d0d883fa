#include "engram/lab/suite/contamination.h"

#include <algorithm>

#include "engram/core/mix.h"
#include "engram/lab/text/entities.h"

namespace engram {
namespace {

std::vector<uint64_t> hash_sequences(const std::vector<uint64_t>& words, size_t length) {
  std::vector<uint64_t> out;
  for (size_t begin = 0; begin + length <= words.size(); ++begin) {
    uint64_t hash = length;
    for (size_t i = 0; i < length; ++i) hash = splitmix64(hash ^ words[begin + i]);
    out.push_back(hash);
  }
  return out;
}

}  // namespace

std::vector<uint64_t> word_hashes(std::string_view text) {
  std::vector<uint64_t> out;
  for (size_t at = 0; at < text.size();) {
    if (!is_word_byte(text[at])) {
      ++at;
      continue;
    }
    uint64_t hash = 0;
    for (; at < text.size() && is_word_byte(text[at]); ++at) {
      const char c = text[at] >= 'A' && text[at] <= 'Z' ? static_cast<char>(text[at] - 'A' + 'a') : text[at];
      hash = splitmix64(hash ^ static_cast<unsigned char>(c));
    }
    out.push_back(hash);
  }
  return out;
}

WordIndex::WordIndex(std::string_view training_text) : words_(word_hashes(training_text)) {}

const std::vector<uint64_t>& WordIndex::sequences(size_t length) {
  const auto [found, fresh] = sorted_.try_emplace(length);
  if (fresh) {
    found->second = hash_sequences(words_, length);
    std::sort(found->second.begin(), found->second.end());
  }
  return found->second;
}

bool WordIndex::overlaps(std::string_view question) {
  const std::vector<uint64_t> words = word_hashes(question);
  if (words.empty()) return false;
  const size_t length = std::min(words.size(), kOverlapWords);
  const std::vector<uint64_t>& known = sequences(length);
  const std::vector<uint64_t> asked = hash_sequences(words, length);
  return std::any_of(asked.begin(), asked.end(),
                     [&](uint64_t hash) { return std::binary_search(known.begin(), known.end(), hash); });
}

}  // namespace engram
