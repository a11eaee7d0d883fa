#include "engram/store/plan/cache_simulation.h"

#include <algorithm>
#include <deque>
#include <utility>

namespace engram {
namespace {

// Counts of marked positions: mark, unmark, how many lie before. A Fenwick tree.
class MarkedPositions {
 public:
  explicit MarkedPositions(size_t size) : tree_(size + 1) {}
  void add(size_t position, int32_t change) {
    for (size_t i = position + 1; i < tree_.size(); i += i & (~i + 1)) tree_[i] += change;
  }
  int64_t count_before(size_t position) const {
    int64_t total = 0;
    for (size_t i = position; i > 0; i -= i & (~i + 1)) total += tree_[i];
    return total;
  }

 private:
  std::vector<int32_t> tree_;
};

class S3Fifo {
 public:
  S3Fifo(uint32_t num_keys, int64_t size)
      : size_(static_cast<size_t>(std::max<int64_t>(size, 2))),
        small_limit_(std::max<size_t>(1, size_ / 10)),
        keys_(num_keys) {}

  // True on a hit.
  bool access(uint32_t key) {
    Key& state = keys_[key];
    if (state.place == Place::kSmall || state.place == Place::kMain) {
      state.frequency = static_cast<uint8_t>(std::min(state.frequency + 1, 3));
      return true;
    }
    const bool was_ghost = state.place == Place::kGhost;
    while (small_.size() + main_.size() >= size_) evict();
    state.frequency = 0;
    state.place = was_ghost ? Place::kMain : Place::kSmall;
    (was_ghost ? main_ : small_).push_back(key);
    return false;
  }

 private:
  enum class Place : uint8_t { kOut, kSmall, kMain, kGhost };
  struct Key {
    Place place = Place::kOut;
    uint8_t frequency = 0;
    uint32_t stamp = 0;  // of its entry in the ghost queue
  };

  void evict() {
    if (small_.size() >= small_limit_ || main_.empty()) {
      evict_small();
    } else {
      evict_main();
    }
  }
  // One key leaves the small queue: to the main one if it was asked for again, else out.
  void evict_small() {
    const uint32_t key = small_.front();
    small_.pop_front();
    Key& state = keys_[key];
    if (state.frequency > 1) {
      state.frequency = 0;
      state.place = Place::kMain;
      main_.push_back(key);
      return;
    }
    state.place = Place::kGhost;
    state.stamp = ++stamp_;
    ghost_.emplace_back(key, stamp_);
    while (ghost_.size() > size_ - small_limit_) {
      const auto [oldest, stamp] = ghost_.front();
      ghost_.pop_front();
      // An entry whose key has come back since then is void.
      if (keys_[oldest].place == Place::kGhost && keys_[oldest].stamp == stamp) keys_[oldest].place = Place::kOut;
    }
  }
  void evict_main() {
    while (true) {
      const uint32_t key = main_.front();
      main_.pop_front();
      Key& state = keys_[key];
      if (state.frequency == 0) {
        state.place = Place::kOut;
        return;
      }
      --state.frequency;
      main_.push_back(key);
    }
  }

  const size_t size_, small_limit_;
  std::vector<Key> keys_;
  std::deque<uint32_t> small_, main_;
  std::deque<std::pair<uint32_t, uint32_t>> ghost_;  // key, stamp
  uint32_t stamp_ = 0;
};

}  // namespace

std::vector<int64_t> simulate_lru(std::span<const uint32_t> trace, uint32_t num_keys, size_t warm,
                                  std::span<const int64_t> sizes) {
  constexpr size_t kNever = SIZE_MAX;
  std::vector<size_t> last(num_keys, kNever);
  MarkedPositions latest(trace.size());  // the last access of every key so far
  std::vector<int64_t> distances;        // [counted accesses that are no first ones]
  for (size_t at = 0; at < trace.size(); ++at) {
    size_t& before = last[trace[at]];
    if (before != kNever) {
      if (at >= warm) distances.push_back(latest.count_before(at) - latest.count_before(before));
      latest.add(before, -1);
    }
    latest.add(at, 1);
    before = at;
  }
  // A key at distance d (itself counted) is still there in a cache of d rows.
  std::sort(distances.begin(), distances.end());
  std::vector<int64_t> hits;
  for (const int64_t size : sizes)
    hits.push_back(std::upper_bound(distances.begin(), distances.end(), size) - distances.begin());
  return hits;
}

int64_t simulate_s3_fifo(std::span<const uint32_t> trace, uint32_t num_keys, size_t warm, int64_t size) {
  S3Fifo cache(num_keys, size);
  int64_t hits = 0;
  for (size_t at = 0; at < trace.size(); ++at) {
    const bool hit = cache.access(trace[at]);
    if (hit && at >= warm) ++hits;
  }
  return hits;
}

}  // namespace engram
