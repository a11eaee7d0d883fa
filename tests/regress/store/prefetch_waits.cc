// Seen: a hint that the full queue of a drive refused, after a read had joined it, was read by the thread that gave the
// hint, which waited for the queue. Right: prefetch() returns at once, and who reads waits.
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>

#include "engram/store/tiers/cached_store.h"

namespace engram {
namespace {

// Refuses hints when the test says so, and knows which threads read.
class FullStore final : public RowStore {
 public:
  void prefetch(std::span<const int64_t> /*row_ids*/) override {}
  Pending read(std::span<const int64_t> row_ids, std::span<std::byte> out) override {
    std::lock_guard lock(mutex_);
    readers_.insert(std::this_thread::get_id());
    for (size_t i = 0; i < row_ids.size(); ++i)
      std::fill_n(out.begin() + static_cast<std::ptrdiff_t>(i * row_bytes()), row_bytes(),
                  static_cast<std::byte>(row_ids[i]));
    return Status();
  }
  Pending try_read(std::span<const int64_t> /*row_ids*/, std::span<std::byte> /*out*/) override {
    std::unique_lock lock(mutex_);
    in_hint_ = true;
    changed_.notify_all();
    changed_.wait(lock, [&] { return refusing_; });
    return make_status(StatusCode::kUnavailable, "the queue is full");
  }
  int64_t num_rows() const override { return 100; }
  size_t row_bytes() const override { return 64; }
  StoreStats stats() const override { return {}; }

  void wait_for_hint() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return in_hint_; });
  }
  void refuse() {
    std::lock_guard lock(mutex_);
    refusing_ = true;
    changed_.notify_all();
  }
  std::set<std::thread::id> readers() const {
    std::lock_guard lock(mutex_);
    return readers_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool in_hint_ = false, refusing_ = false;
  std::set<std::thread::id> readers_;
};

TEST(PrefetchWaits, RefusedHintThatAReadHasJoined) {
  auto base = std::make_unique<FullStore>();
  FullStore& below = *base;
  CachedStore store(std::move(base), nullptr, value_or_throw(RowCache::create(1 << 20, 64)));
  std::thread hinting([&] { store.prefetch(std::vector<int64_t>{3, 4}); });
  const std::thread::id hinting_id = hinting.get_id();
  below.wait_for_hint();
  std::vector<std::byte> row(64);
  std::thread reading([&] { EXPECT_TRUE(store.read(std::vector<int64_t>{3}, row).wait().ok()); });
  // Until the read has met the row that is on its way.
  while (store.stats().prefetch.late == 0) std::this_thread::yield();
  below.refuse();
  hinting.join();
  reading.join();
  EXPECT_EQ(row[0], std::byte{3});
  EXPECT_FALSE(below.readers().contains(hinting_id)) << "prefetch() read the row, which may wait";
  EXPECT_EQ(below.readers().size(), 1u);
  // Nothing is left on its way.
  EXPECT_TRUE(store.read(std::vector<int64_t>{4}, row).wait().ok());
  EXPECT_EQ(row[0], std::byte{4});
}

}  // namespace
}  // namespace engram
