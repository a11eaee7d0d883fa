#include "engram/store/tiers/row_cache.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <deque>
#include <random>
#include <set>
#include <thread>
#include <unordered_map>
#include <unordered_set>

namespace engram {
namespace {

constexpr size_t kRowBytes = 100;

void fill_row(int64_t id, std::byte* row) {
  for (size_t i = 0; i < kRowBytes; ++i) row[i] = static_cast<std::byte>(id * 31 + static_cast<int64_t>(i));
}

// A read of the cache with a store behind it: whether it hit; what it gives is checked.
bool read_through(RowCache& cache, int64_t id) {
  std::byte row[kRowBytes], wanted[kRowBytes];
  fill_row(id, wanted);
  if (cache.get(id, row) != RowCache::Found::kNo) {
    EXPECT_EQ(std::memcmp(row, wanted, kRowBytes), 0) << id;
    return true;
  }
  cache.put(id, wanted, false);
  return false;
}

// S3-FIFO as its paper's Algorithm 1 has it, with an exact ghost queue as long as the cache.
class ReferenceS3Fifo {
 public:
  explicit ReferenceS3Fifo(size_t slots) : slots_(slots), small_target_(std::max<size_t>(1, slots / 10)) {}
  bool read(int64_t id) {
    if (const auto found = reads_.find(id); found != reads_.end()) {
      found->second = std::min(found->second + 1, 3);
      return true;
    }
    while (reads_.size() >= slots_) evict();
    const bool was_ghost = ghosts_.contains(id);
    if (was_ghost) {
      ghosts_.erase(id);
      std::erase(ghost_queue_, id);
    }
    (was_ghost ? main_ : small_).push_back(id);
    reads_[id] = 0;
    return false;
  }

 private:
  void evict() {
    if (small_.size() >= small_target_ || main_.empty()) {
      while (!small_.empty()) {
        const int64_t id = small_.front();
        small_.pop_front();
        if (reads_[id] > 1) {
          reads_[id] = 0;
          main_.push_back(id);
          continue;
        }
        reads_.erase(id);
        ghosts_.insert(id);
        ghost_queue_.push_back(id);
        if (ghost_queue_.size() > slots_) {
          ghosts_.erase(ghost_queue_.front());
          ghost_queue_.pop_front();
        }
        return;
      }
    }
    while (!main_.empty()) {
      const int64_t id = main_.front();
      main_.pop_front();
      if (reads_[id] == 0) {
        reads_.erase(id);
        return;
      }
      --reads_[id];
      main_.push_back(id);
    }
  }
  const size_t slots_, small_target_;
  std::deque<int64_t> small_, main_, ghost_queue_;
  std::unordered_map<int64_t, int> reads_;
  std::unordered_set<int64_t> ghosts_;
};

// Ids with the frequencies of words in a text: weight 1 / rank.
std::vector<int64_t> zipf_ids(size_t count, int64_t num_rows, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> uniform(0, std::log(static_cast<double>(num_rows)));
  std::vector<int64_t> ids(count);
  for (int64_t& id : ids) id = static_cast<int64_t>(std::exp(uniform(random))) * 2654435761 % 1000003;
  return ids;
}

TEST(RowCacheTest, HitRateIsThatOfThePaper) {
  const auto cache = value_or_throw(RowCache::create(200 * 141, kRowBytes));
  ASSERT_EQ(cache->capacity(), 200);
  ReferenceS3Fifo reference(200);
  int hits = 0, wanted = 0;
  const auto ids = zipf_ids(100000, 20000, 1);
  for (int64_t id : ids) {
    hits += read_through(*cache, id);
    wanted += reference.read(id);
  }
  EXPECT_GT(wanted, 40000);
  EXPECT_NEAR(hits, wanted, 0.01 * 100000);
  EXPECT_EQ(cache->size(), 200);
}

TEST(RowCacheTest, OneLongPassDoesNotEmptyIt) {
  auto cache = value_or_throw(RowCache::create(200 * 141, kRowBytes));
  for (int round = 0; round < 20; ++round) {
    for (int64_t id = 0; id < 100; ++id) read_through(*cache, id);
  }
  for (int64_t id = 1000; id < 11000; ++id) read_through(*cache, id);
  int kept = 0;
  for (int64_t id = 0; id < 100; ++id) kept += cache->contains(id);
  EXPECT_GT(kept, 80);
}

TEST(RowCacheTest, StaysInsideItsBudget) {
  for (int64_t budget : {4096, 10000, 1 << 20}) {
    auto cache = value_or_throw(RowCache::create(budget, kRowBytes));
    EXPECT_LE(cache->capacity() * static_cast<int64_t>(kRowBytes), budget);
    EXPECT_GT(cache->capacity() * 160, budget - 160 * 64);
    for (int64_t id = 0; id < 3 * cache->capacity(); ++id) read_through(*cache, id * 7);
    EXPECT_LE(cache->size(), cache->capacity());
    EXPECT_GE(cache->evictions(), cache->capacity());
  }
}

TEST(RowCacheTest, RefusesBudgetsBelowAPage) {
  EXPECT_EQ(RowCache::create(4095, 10).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(RowCache::create(0, 10).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(RowCache::create(-1, 10).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(RowCache::create(8192, 8192).status().code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(RowCache::create(4096, 10).ok());
  EXPECT_EQ(RowCache::create(int64_t{1} << 50, 256).status().code(), StatusCode::kResourceExhausted);
}

TEST(RowCacheTest, TellsWhatBecameOfPrefetches) {
  auto cache = value_or_throw(RowCache::create(4096, kRowBytes));
  std::byte row[kRowBytes];
  for (int64_t id : {1, 2}) {
    fill_row(id, row);
    cache->put(id, row, true);
  }
  EXPECT_EQ(cache->get(1, row), RowCache::Found::kPrefetched);
  EXPECT_EQ(cache->get(1, row), RowCache::Found::kYes);
  EXPECT_EQ(cache->get(3, row), RowCache::Found::kNo);
  for (int64_t id = 100; id < 300; ++id) read_through(*cache, id);
  EXPECT_EQ(cache->unused_prefetches(), 1);
}

// Erasing must not break a probe sequence: every id that a plain set has is found, and no other.
TEST(RowCacheTest, IndexAgreesWithASet) {
  auto cache = value_or_throw(RowCache::create(30 * 141, kRowBytes));
  std::mt19937_64 random(2);
  std::set<int64_t> seen;
  for (int i = 0; i < 20000; ++i) {
    const auto id = static_cast<int64_t>(random() % 64);
    read_through(*cache, id);
    ASSERT_TRUE(cache->contains(id));
    int64_t there = 0;
    for (int64_t other = 0; other < 64; ++other) there += cache->contains(other);
    ASSERT_EQ(there, cache->size());
  }
}

TEST(RowCacheTest, ManyThreads) {
  auto cache = value_or_throw(RowCache::create(5000 * 141, kRowBytes));
  std::vector<std::thread> threads;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&, seed] {
      for (int64_t id : zipf_ids(20000, 50000, seed)) read_through(*cache, id);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(cache->size(), cache->capacity());
}

}  // namespace
}  // namespace engram
