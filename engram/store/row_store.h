// RowStore: fixed-width embedding rows of one layer's table by id, wherever they are.
//
// Moves bytes and nothing else: hashing is hash/ngram_hasher.h, decoding kernels/row_codec.h. DramStore, MappedStore,
// PageCacheStore, NvmeStore and CachedStore return identical bytes for an id and pass one shared suite,
// tests/store/row_store_contract.h. A file holds the tables of all layers; there is one store per layer, and stores of
// one file share its open file and its I/O thread. Opened by URI: engram/store/open.h.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engram/core/status.h"
#include "engram/store/pending.h"
#include "engram/store/stats.h"

namespace engram {

// Thread-safe: any method, any thread, at any time. Rows never change after open.
class RowStore {
 public:
  // Implementations finish every read in flight before returning from here.
  virtual ~RowStore() = default;

  // Hint for ids that may not be used (draft tokens). Returns at once; may be dropped under load, and where nothing is
  // faster for it. Ids out of range are ignored. Changes when a read finishes, never what it returns.
  virtual void prefetch(std::span<const int64_t> row_ids) = 0;

  // Starts a read; blocks only while the tier's queue is full. Pending's wait() gives the Status once, its destructor
  // waits.
  //   row_ids [n]             copied; any order; each distinct row is read once
  //   out     [n, row_bytes]  the caller's, left alone until the Pending is done; after an error unspecified
  //   kInvalidArgument  out.size() != n * row_bytes(); nothing was read
  //   kOutOfRange       an id outside [0, num_rows()); nothing was read
  //   kDataLoss         a page failed twice (I/O error, checksum, end of file); the message names file and page
  virtual Pending read(std::span<const int64_t> row_ids, std::span<std::byte> out) = 0;

  // The same, but kUnavailable at once where read() would block: for hints.
  virtual Pending try_read(std::span<const int64_t> row_ids, std::span<std::byte> out) { return read(row_ids, out); }

  // Where a read would find each row now, as an index into stats().tiers: for traces. It only looks: it admits
  // nothing, counts nothing and waits for no drive. The answer may change a moment later; rows on their way into a
  // cache are not in it yet. Stores of one tier answer 0, and ids out of range get the last tier.
  //   tiers [n]   REQUIRES: as many as row_ids
  virtual void locate(std::span<const int64_t> row_ids, std::span<uint8_t> tiers) const;

  virtual int64_t num_rows() const = 0;
  virtual size_t row_bytes() const = 0;  // payload per row; padding excluded
  virtual StoreStats stats() const = 0;
};

// The argument checks of read(), the same for every tier.
Status check_read(const RowStore& store, std::span<const int64_t> row_ids, std::span<std::byte> out);

}  // namespace engram
