// NgramHasher: the tail of a sequence -> embedding-row ids of one Engram layer.
//
// A position owns R = (max_ngram_size - 1) * n_heads rows, order-major: one per n-gram order and hash head. Order n
// mixes the XOR (longcat: the sum, with multipliers of each head) over k < n of canonical_id[p - k] * multiplier[k],
// modulo the head's size; head offsets are already added, so an id addresses the layer's table directly.
//
// Exact: ids depend only on (layout, token ids), never on threads, chunking or host. XORed multipliers stay below
// INT64_MAX / compressed_vocab_size, so no product overflows; sums have 128 bits where doubles are too small. Golden
// ids: tests/golden/.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "engram/hash/layout.h"
#include "engram/hash/ngram_context.h"

namespace engram {

// Immutable; threads may share one. Cheap to move.
class NgramHasher {
 public:
  // Copies what it needs. REQUIRES: `layer` is a position in the layout's layer_ids.
  NgramHasher(const EngramLayout& layout, int layer);

  // Hashes the last `count` tokens of the context. O(count * R), no heap allocation.
  //   row_ids [count, R]  out, row-major, each in [0, num_rows()); large outputs are written fastest at addresses that
  //                       are multiples of 64
  // Any split into append() and hash() calls yields the ids of one call over the whole sequence.
  // REQUIRES: count <= context.num_held(), the context's max_ngram_size, compressed_vocab_size and cut_id, row_ids of
  // that size.
  void hash(const NgramContext& context, int64_t count, std::span<int64_t> row_ids) const;
  // The plain loop of the specification over a whole sequence: the oracle that hash() is tested against. starts:
  // NgramContext::append()'s.
  void hash_plain(std::span<const CanonicalId> ids, std::span<const int32_t> starts, std::span<int64_t> row_ids) const;

  int max_ngram_size() const { return max_ngram_size_; }  // N
  int rows_per_token() const { return rows_per_token_; }  // R
  int cut_id() const { return cut_id_; }                  // EngramLayout's
  int64_t num_rows() const { return num_rows_; }          // this layer's table, all heads

 private:
  int max_ngram_size_, n_heads_, rows_per_token_, boundary_id_, cut_id_, compressed_vocab_size_;
  bool is_sum_, divides_;
  int64_t num_rows_;
  std::vector<int64_t> multipliers_, primes_, offsets_;  // the last two longer by a vector
  std::vector<double> doubles_;                          // primes, 1 / primes, multipliers
};

}  // namespace engram
