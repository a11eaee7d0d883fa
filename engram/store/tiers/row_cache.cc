#include "engram/store/tiers/row_cache.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "engram/core/mix.h"

namespace engram {
namespace {

constexpr int64_t kSmallestBudget = 4096;
// Bytes per slot beside the row, at most: id 8, next 4, state 1, index 3 x 4, ghosts 2 x 8.
constexpr int64_t kSlotOverhead = 41;
constexpr int64_t kMostShards = 64, kFewestSlotsPerShard = 256;
constexpr uint32_t kNone = UINT32_MAX;

// Neighbouring ids spread over shards and buckets.
uint64_t mix(int64_t id) { return mix_bits(static_cast<uint64_t>(id)); }

}  // namespace

struct RowCache::Shard {
  // A first-in first-out list of slots, linked through next[].
  struct Queue {
    uint32_t head = kNone, tail = kNone;  // leaves at the head, enters at the tail
    uint32_t size = 0;
  };
  // A row that left: its fingerprint and when, in rows that left since the start.
  struct Ghost {
    uint32_t fingerprint = 0, time = 0;
  };

  mutable std::mutex mutex;
  std::byte* rows = nullptr;  // [slots, row_bytes]
  size_t row_bytes = 0;
  uint32_t used = 0, small_target = 0;
  std::vector<int64_t> ids;
  std::vector<uint32_t> next;
  std::vector<uint8_t> state;   // times read since the last turn, 0 .. 3; kPrefetchedBit
  std::vector<uint32_t> index;  // open addressing, linear: slot or kNone
  std::vector<Ghost> ghosts;    // one place per hash
  uint32_t ghost_time = 0;
  Queue small, main;
  uint32_t free_slot = kNone;  // the one that the last eviction emptied

  static constexpr uint8_t kReads = 3, kPrefetchedBit = 4;

  void init(uint32_t slots, size_t bytes, std::byte* memory) {
    rows = memory;
    row_bytes = bytes;
    small_target = std::max(1u, slots / 10);
    ids.resize(slots);
    next.resize(slots);
    state.resize(slots);
    index.assign(std::bit_ceil(slots + slots / 2 + 1), kNone);
    ghosts.resize(std::bit_ceil(slots));
  }
  std::byte* row(uint32_t slot) const { return rows + size_t{slot} * row_bytes; }

  void push(Queue& queue, uint32_t slot) {
    next[slot] = kNone;
    (queue.size == 0 ? queue.head : next[queue.tail]) = slot;
    queue.tail = slot;
    ++queue.size;
  }
  uint32_t pop(Queue& queue) {
    const uint32_t slot = queue.head;
    queue.head = next[slot];
    --queue.size;
    return slot;
  }

  size_t bucket_of(int64_t id) const { return mix(id) & (index.size() - 1); }
  // The bucket that holds `id`, or the empty one where it would stand.
  size_t find_bucket(int64_t id) const {
    size_t bucket = bucket_of(id);
    while (index[bucket] != kNone && ids[index[bucket]] != id) bucket = (bucket + 1) & (index.size() - 1);
    return bucket;
  }
  uint32_t find(int64_t id) const { return index[find_bucket(id)]; }
  // Closes the gap: what probing had pushed behind it moves up.
  void erase(int64_t id) {
    const size_t mask = index.size() - 1;
    size_t gap = find_bucket(id);
    for (size_t at = (gap + 1) & mask; index[at] != kNone; at = (at + 1) & mask) {
      const size_t home = bucket_of(ids[index[at]]);
      if (((at - home) & mask) < ((at - gap) & mask)) continue;
      index[gap] = index[at];
      gap = at;
    }
    index[gap] = kNone;
  }

  Ghost& ghost_of(uint64_t hash) { return ghosts[(hash >> 8) & (ghosts.size() - 1)]; }
  static uint32_t fingerprint(uint64_t hash) { return static_cast<uint32_t>(hash >> 32) | 1; }
  bool is_ghost(int64_t id) {
    const uint64_t hash = mix(id);
    const Ghost& ghost = ghost_of(hash);
    return ghost.fingerprint == fingerprint(hash) && ghost_time - ghost.time <= ids.size();
  }
  void remember(int64_t id) {
    const uint64_t hash = mix(id);
    ghost_of(hash) = {fingerprint(hash), ++ghost_time};
  }

  // Empties a slot; true when its row came by a hint and was never read.
  bool drop(uint32_t slot) {
    erase(ids[slot]);
    free_slot = slot;
    return (state[slot] & kPrefetchedBit) != 0;
  }
  bool evict() {
    while (true) {
      if (small.size > 0 && (small.size >= small_target || main.size == 0)) {
        const uint32_t slot = pop(small);
        if ((state[slot] & kReads) <= 1) {
          remember(ids[slot]);
          return drop(slot);
        }
        state[slot] = 0;
        push(main, slot);
      } else {
        const uint32_t slot = pop(main);
        if ((state[slot] & kReads) == 0) return drop(slot);
        --state[slot];
        push(main, slot);
      }
    }
  }
};

Result<std::unique_ptr<RowCache>> RowCache::create(int64_t budget_bytes, size_t row_bytes) {
  const int64_t slot_bytes = static_cast<int64_t>(row_bytes) + kSlotOverhead;
  if (budget_bytes < std::max(kSmallestBudget, slot_bytes))
    return invalid_argument("a cache of {} bytes, wanted at least {} for a page and a row", budget_bytes,
                            std::max(kSmallestBudget, slot_bytes));
  std::unique_ptr<RowCache> cache(new RowCache);
  const int64_t capacity = budget_bytes / slot_bytes;
  const int64_t shards = std::clamp<int64_t>(capacity / kFewestSlotsPerShard, 1, kMostShards);
  const int64_t slots = std::min<int64_t>(capacity / shards, kNone - 1);
  cache->row_bytes_ = row_bytes;
  cache->capacity_ = slots * shards;
  const size_t bytes = static_cast<size_t>(cache->capacity_) * row_bytes;
  ENGRAM_ASSIGN_OR_RETURN(cache->rows_, HugeMemory::allocate(bytes, "row cache"));
  for (int64_t i = 0; i < shards; ++i) {
    auto& shard = cache->shards_.emplace_back(std::make_unique<Shard>());
    shard->init(static_cast<uint32_t>(slots), row_bytes,
                cache->rows_.bytes().data() + static_cast<size_t>(i * slots) * row_bytes);
  }
  return cache;
}

RowCache::~RowCache() = default;

// The shard from bits that its index does not use.
RowCache::Shard& RowCache::shard_of(int64_t id) const { return *shards_[(mix(id) >> 40) % shards_.size()]; }

RowCache::Found RowCache::get(int64_t id, std::byte* out) {
  Shard& shard = shard_of(id);
  std::lock_guard lock(shard.mutex);
  const uint32_t slot = shard.find(id);
  if (slot == kNone) return Found::kNo;
  std::memcpy(out, shard.row(slot), row_bytes_);
  uint8_t& state = shard.state[slot];
  const bool prefetched = (state & Shard::kPrefetchedBit) != 0;
  // The read that a hint foresaw is the row's first, as a miss would have been: it is no sign of reuse.
  if (prefetched)
    state &= Shard::kReads;
  else if (state < Shard::kReads)
    ++state;
  return prefetched ? Found::kPrefetched : Found::kYes;
}

bool RowCache::contains(int64_t id) const {
  const Shard& shard = shard_of(id);
  std::lock_guard lock(shard.mutex);
  return shard.find(id) != kNone;
}

void RowCache::put(int64_t id, const std::byte* row, bool prefetched) {
  Shard& shard = shard_of(id);
  std::lock_guard lock(shard.mutex);
  if (shard.find(id) != kNone) return;
  uint32_t slot = shard.used;
  if (shard.used < shard.ids.size()) {
    ++shard.used;
    size_.fetch_add(1, std::memory_order_relaxed);
  } else {
    if (shard.evict()) unused_.fetch_add(1, std::memory_order_relaxed);
    evictions_.fetch_add(1, std::memory_order_relaxed);
    slot = shard.free_slot;
  }
  std::memcpy(shard.row(slot), row, row_bytes_);
  shard.ids[slot] = id;
  shard.state[slot] = prefetched ? Shard::kPrefetchedBit : 0;
  shard.index[shard.find_bucket(id)] = slot;
  shard.push(shard.is_ghost(id) ? shard.main : shard.small, slot);
}

}  // namespace engram
