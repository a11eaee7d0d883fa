// NgramRows: which n-grams a text has, and which rows of a table they share.
//
// An n-gram is a tuple of canonical ids that ends at a token, with the pad id in front of a document's first token, as
// the hasher sees it. Its key is a 64-bit mix of the tuple (two of ten million n-grams share one with probability
// 3e-6). Rows are those of one memory layer.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engram/hash/ngram_hasher.h"
#include "engram/hash/token_map.h"

namespace engram {

// Keys of the n-grams of `order` tokens that end at each token: [tokens].
std::vector<uint64_t> ngram_keys(const TokenMap& map, std::span<const int32_t> tokens,
                                 std::span<const int64_t> document_starts, int order, int pad_token_id);

// Distinct n-grams, by ascending key.
struct NgramCounts {
  std::vector<uint64_t> keys;
  std::vector<int64_t> counts;
  std::vector<int64_t> positions;  // where each occurs first
  // Index into the above; -1 when the text has no such n-gram.
  int64_t find(uint64_t key) const;
};
NgramCounts count_ngrams(std::span<const uint64_t> keys);

// Calls visit(begin, length, row_ids [length, R]) over the whole text in chunks; documents cut n-grams off.
void for_each_row_chunk(const NgramHasher& hasher, const TokenMap& map, std::span<const int32_t> tokens,
                        std::span<const int64_t> document_starts, int max_ngram_size,
                        const std::function<void(int64_t, int64_t, std::span<const int64_t>)>& visit);
// How many tokens of the text read each row: [num_rows].
std::vector<int64_t> row_traffic(const NgramHasher& hasher, const TokenMap& map, std::span<const int32_t> tokens,
                                 std::span<const int64_t> document_starts, int max_ngram_size);

}  // namespace engram
