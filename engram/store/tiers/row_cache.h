// RowCache: a bounded cache of rows with S3-FIFO eviction, for many threads.
//
// S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023): new rows enter a small queue of
// a tenth of the slots; those read again before they reach its end move to the main queue, the others leave and are
// remembered for a while (no bytes, a "ghost"); a row that comes back as a ghost enters the main queue at once. A row
// of the main queue that was read since its last turn stays for another. So one pass over rows that are never read
// again, such as a long prompt, does not empty the cache.
//
// Rows live in huge pages; everything the cache allocates is inside its budget. Shards with a lock each.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "engram/core/status.h"
#include "engram/store/tiers/huge_memory.h"

namespace engram {

// Thread-safe.
class RowCache {
 public:
  // kInvalidArgument: a budget that does not hold one row, or less than a page; kResourceExhausted.
  static Result<std::unique_ptr<RowCache>> create(int64_t budget_bytes, size_t row_bytes);

  ~RowCache();

  enum class Found { kNo, kYes, kPrefetched };  // kPrefetched: the first read of a row that a hint brought
  // Copies the row to `out` if it is there, and counts it as read.
  Found get(int64_t id, std::byte* out);
  bool contains(int64_t id) const;
  // Takes a row in unless it is there. prefetched: nobody has read it yet.
  void put(int64_t id, const std::byte* row, bool prefetched);

  int64_t capacity() const { return capacity_; }  // rows
  int64_t size() const { return size_.load(std::memory_order_relaxed); }
  int64_t evictions() const { return evictions_.load(std::memory_order_relaxed); }
  int64_t unused_prefetches() const { return unused_.load(std::memory_order_relaxed); }  // evicted before any read

 private:
  struct Shard;
  RowCache() = default;
  Shard& shard_of(int64_t id) const;

  size_t row_bytes_ = 0;
  int64_t capacity_ = 0;
  HugeMemory rows_;
  std::vector<std::unique_ptr<Shard>> shards_;
  std::atomic<int64_t> size_{0}, evictions_{0}, unused_{0};
};

}  // namespace engram
