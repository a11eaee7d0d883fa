// NgramHasher: token ids -> embedding-row ids for one Engram layer.
//
// A position owns R = (max_ngram_size - 1) * n_heads rows, order-major: one per n-gram order and hash head. Order n
// mixes the XOR over k < n of canonical_id[p - k] * multiplier[k], modulo the head's prime; head offsets are already
// added, so an id addresses the layer's table directly.
//
// Exact: ids depend only on (layout, token ids), never on threads, chunking or host. Multipliers stay below
// INT64_MAX / compressed_vocab_size, so no product overflows. Golden ids: tests/golden/.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "engram/core/status.h"
#include "engram/hash/layout.h"
#include "engram/hash/token_map.h"

namespace engram {

// Immutable after create(); threads may share one. Cheap to move.
class NgramHasher {
 public:
  // Copies what it needs; no argument has to outlive the call. `layer` is the position in layout's layer_ids.
  // kInvalidArgument: no such layer, or the map's size is not the layout's compressed_vocab_size (that would
  // silently rehash the whole table).
  static Result<NgramHasher> create(const EngramLayout& layout, const TokenMap& map, int layer);

  // Hashes one chunk of one sequence. O(L * R), no heap allocation.
  //   token_ids [L]       raw ids; -1 is a masked position
  //   starts    [any]     index of each document's first token in this chunk, ascending; may be empty
  //   lookback  [<= N-1]  canonical ids just before the chunk, oldest first, -1 masked, without those of an earlier
  //                       document; shorter means that the sequence or document begins there
  //   row_ids   [L, R]    out, row-major, each in [0, num_rows()); large outputs are written fastest at addresses
  //                       that are multiples of 64
  // Any split into chunks yields the ids of one call over the whole sequence. A document that starts at index 0 of
  // the chunk cuts off the look-back.
  // kInvalidArgument: sizes disagree, an id is outside the vocabulary, starts are not ascending; row_ids is then
  // untouched.
  Status hash(std::span<const int32_t> token_ids, std::span<const int32_t> starts, std::span<const int32_t> lookback,
              std::span<int64_t> row_ids) const;
  // The plain loop of the specification: the oracle that hash() is tested against.
  Status hash_ref(std::span<const int32_t> token_ids, std::span<const int32_t> starts,
                  std::span<const int32_t> lookback, std::span<int64_t> row_ids) const;

  int rows_per_token() const { return rows_per_token_; }  // R
  int64_t num_rows() const { return num_rows_; }          // this layer's table, all heads

 private:
  Status check(std::span<const int32_t> token_ids, std::span<const int32_t> starts, std::span<const int32_t> lookback,
               std::span<int64_t> row_ids) const;

  int max_ngram_size_ = 0, n_heads_ = 0, rows_per_token_ = 0, pad_id_ = 0;
  int64_t num_rows_ = 0;
  TokenMap map_ = TokenMap::identity(0);
  std::vector<int64_t> multipliers_, primes_, offsets_;
  bool has_small_primes_ = false;
};

}  // namespace engram
