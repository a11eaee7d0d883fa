// NgramRows: which n-grams a text has, and which rows of a table they share.
//
// An n-gram is a tuple of canonical ids that ends at a token, with the pad id in front of a document's first token
// (under the rules of raw ids: eos, which begins a document too), as the hasher sees it. Its key is a 64-bit mix of the
// tuple (two of ten million n-grams share one with probability 3e-6).
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "engram/hash/memory_hasher.h"

namespace engram {

// Keys of the n-grams of `order` tokens that end at each token: [tokens].
std::vector<uint64_t> ngram_keys(const TokenMap& map, std::span<const int32_t> tokens,
                                 std::span<const int64_t> document_starts, int order, const EngramConfig& config);

// Distinct n-grams, by ascending key.
struct NgramCounts {
  std::vector<uint64_t> keys;
  std::vector<int64_t> counts;
  std::vector<int64_t> positions;  // where each occurs first
  // Index into the above; -1 when the text has no such n-gram.
  int64_t find(uint64_t key) const;
};
NgramCounts count_ngrams(std::span<const uint64_t> keys);

// How many tokens of the text read each row, of every layer: [layers][num_rows].
std::vector<std::vector<int64_t>> row_traffic(const MemoryHasher& hasher, std::span<const int32_t> tokens,
                                              std::span<const int64_t> document_starts);

}  // namespace engram
