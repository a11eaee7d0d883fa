// What drives and files do wrong, and callers who all want something at once.
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <nlohmann/json.hpp>
#include <thread>

#include "engram/store/tiers/cached_store.h"
#include "engram/store/tiers/drive_store.h"
#include "tests/store/faulty_page_reader.h"
#include "tests/store/store_test.h"

namespace engram {
namespace {

class DriveFaultTest : public StoreTest {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    throw_if_error(write_row_file(Env::posix(), path("rows"), info_));
  }
  DriveOptions options(PageFaultPlan plan = {}) const {
    DriveOptions options;
    options.reader.direct = false;
    options.reader.depth = 8;
    options.reader.wrap = [plan](std::unique_ptr<PageReader> base) -> std::unique_ptr<PageReader> {
      return std::make_unique<FaultyPageReader>(std::move(base), plan);
    };
    return options;
  }
  std::unique_ptr<RowStore> open_nvme(PageFaultPlan plan = {}) const {
    return value_or_throw(NvmeStore::open(value_or_throw(DriveFile::open(path("rows"), options(plan))), 1));
  }
  // The drive gives nothing back until release(): whatever a test asks for before is under way at once.
  PageFaultPlan held() {
    return {.fault =
                [released = released_.get_future().share()](int64_t, int64_t) {
                  released.wait();
                  return PageFault::kNone;
                },
            .reorder = true};
  }
  std::unique_ptr<RowStore> open_held_nvme() { return open_nvme(held()); }
  void release() { released_.set_value(); }
  std::unique_ptr<RowStore> open_page_cache(PageFaultPlan plan = {}) const {
    return value_or_throw(PageCacheStore::open(value_or_throw(DriveFile::open(path("rows"), options(plan))), 1));
  }
  bool knows_the_page_cache() const {  // the file has just been written, so it is there
    std::byte byte[1];
    const int file = port::open_for_reading(path("rows").c_str(), false);
    const int64_t got = port::read_resident(file, 0, byte);
    ::close(file);
    return got == 1;
  }
  Status read(RowStore& store, std::span<const int64_t> ids) {
    out_.assign(ids.size() * store.row_bytes(), std::byte{0});
    return store.read(ids, out_).wait();
  }
  bool right(std::span<const int64_t> ids) const { return out_ == wanted_rows(table_, ids); }

  const RowFileInfo info_ = test_row_file_info();
  const RowTable& table_ = info_.tables[0];  // 15 rows a page
  std::vector<std::byte> out_;
  std::promise<void> released_;
};

// Page first_page + 2 fails `times` times; rows 30 .. 44 stand on it.
PageFaultPlan fail_page(const RowTable& table, PageFault fault, int64_t times) {
  return {.fault = [=, bad = table.first_page + 2](int64_t page, int64_t attempt) {
    return page == bad && attempt < times ? fault : PageFault::kNone;
  }};
}

TEST_F(DriveFaultTest, EachFaultIsRepeatedOnceThenReported) {
  const std::vector<int64_t> ids = {0, 31, 16, 44, 100};
  const std::vector<std::pair<PageFault, std::string>> faults = {
      {PageFault::kError, "cannot read page 3: Input/output error"},
      {PageFault::kShort, "page 3 has 2048 bytes, wanted 4096"},
      {PageFault::kFlip, "page 3 is damaged"},
      {PageFault::kWrongPage, "page 3 holds page 0"}};
  for (const auto& [fault, message] : faults) {
    const auto healing = open_nvme(fail_page(table_, fault, 1));
    throw_if_error(read(*healing, ids));
    EXPECT_TRUE(right(ids));
    EXPECT_EQ(healing->stats().retries, 1u);

    const auto failing = open_nvme(fail_page(table_, fault, 2));
    const Status status = read(*failing, ids);
    EXPECT_EQ(status.code(), StatusCode::kDataLoss);
    EXPECT_NE(status.message().find(path("rows") + ": "), std::string::npos) << status.message();
    EXPECT_NE(status.message().find(message), std::string::npos) << status.message();
    EXPECT_EQ(failing->stats().failed_reads, 1u);
    // The store lives on, and the page has healed.
    throw_if_error(read(*failing, ids));
    EXPECT_TRUE(right(ids));
  }
}

TEST_F(DriveFaultTest, ResidentPagesAreCheckedToo) {
  if (!knows_the_page_cache()) GTEST_SKIP() << "the system does not tell what its page cache holds";
  const std::vector<int64_t> ids = {0, 31, 16};
  for (PageFault fault : {PageFault::kError, PageFault::kShort, PageFault::kFlip, PageFault::kWrongPage}) {
    const auto healing = open_page_cache(fail_page(table_, fault, 2));
    throw_if_error(read(*healing, ids));
    EXPECT_TRUE(right(ids));
    const auto failing = open_page_cache(fail_page(table_, fault, 3));
    EXPECT_EQ(read(*failing, ids).code(), StatusCode::kDataLoss);
  }
}

// A page is checked once while nobody writes to the file, and at every read from then on.
TEST_F(DriveFaultTest, ResidentPagesAreCheckedAgainAfterAWrite) {
  const auto an_hour_ago = std::filesystem::file_time_type::clock::now() - std::chrono::hours(1);
  std::filesystem::last_write_time(path("rows"), an_hour_ago);  // or the write might fall into the same tick
  const auto store = open_page_cache();
  const std::vector<int64_t> all = {0, 31, 31, 16, 200}, good = {0, 0, 16, 200};
  for (int i = 0; i < 3; ++i) {
    throw_if_error(read(*store, all));
    EXPECT_TRUE(right(all));
  }
  std::string bytes = contents_of("rows");
  bytes[static_cast<size_t>((table_.first_page + 2) * kRowPageBytes + 300)] ^= 1;  // in row 31
  std::ofstream(path("rows"), std::ios::in | std::ios::out).write(bytes.data(), std::ssize(bytes));
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(read(*store, all).code(), StatusCode::kDataLoss);
    throw_if_error(read(*store, good));
    EXPECT_TRUE(right(good));
  }
}

TEST_F(DriveFaultTest, ShrunkFileIsAnError) {
  const auto nvme = open_nvme(), page_cache = open_page_cache();
  throw_if_error(Env::posix().truncate_file(path("rows"), (table_.first_page + 2) * 4096 + 100));
  for (RowStore* store : {nvme.get(), page_cache.get()}) {
    const Status status = read(*store, std::vector<int64_t>{0, 31});
    EXPECT_EQ(status.code(), StatusCode::kDataLoss);
    EXPECT_NE(status.message().find("page 3 has 100 bytes"), std::string::npos) << status.message();
    EXPECT_EQ(read(*store, std::vector<int64_t>{1000}).code(), StatusCode::kDataLoss);
    throw_if_error(read(*store, std::vector<int64_t>{0, 29}));
    EXPECT_TRUE(right(std::vector<int64_t>{0, 29}));
  }
}

TEST_F(DriveFaultTest, ReplacedFileGoesOnAsItWas) {
  const auto nvme = open_nvme(), page_cache = open_page_cache();
  throw_if_error(write_file_atomic(Env::posix(), path("rows"), std::string(1 << 20, 'x')));
  for (RowStore* store : {nvme.get(), page_cache.get()}) {
    throw_if_error(read(*store, std::vector<int64_t>{0, 31, 1000}));
    EXPECT_TRUE(right(std::vector<int64_t>{0, 31, 1000}));
  }
}

TEST_F(DriveFaultTest, PagesAreReadOncePerRead) {
  std::vector<int64_t> ids;
  for (int i = 0; i < 200; ++i) ids.push_back((i * 7) % 60);  // on four pages
  const auto store = open_nvme();
  throw_if_error(read(*store, ids));
  EXPECT_TRUE(right(ids));
  const StoreStats stats = store->stats();
  EXPECT_EQ(stats.find_tier("drive")->pages, 4u);
  EXPECT_EQ(stats.unique_rows, 60u);
  EXPECT_NEAR(stats.rows_per_unique_row(), 200.0 / 60, 1e-9);
}

// A hint that fails must not fail, or change, a read that came to wait for it.
TEST_F(DriveFaultTest, FailedHintsHarmNoRead) {
  for (int64_t times : {1, 2, 3, 4}) {
    CachedStore store(open_nvme(fail_page(table_, PageFault::kFlip, times)), nullptr,
                      value_or_throw(RowCache::create(1 << 20, 264)));
    store.prefetch(std::vector<int64_t>{0, 31, 500});
    const std::vector<int64_t> good = {0, 500}, bad = {0, 31};
    throw_if_error(read(store, good));
    EXPECT_TRUE(right(good));
    const Status status = read(store, bad);
    if (status.ok())
      EXPECT_TRUE(right(bad));
    else
      EXPECT_GT(times, 1);
    throw_if_error(read(store, bad));
    EXPECT_TRUE(right(bad)) << times;
  }
}

TEST_F(DriveFaultTest, HintsAreUsed) {
  CachedStore store(open_held_nvme(), nullptr, value_or_throw(RowCache::create(1 << 20, 264)));
  const std::vector<int64_t> ids = {0, 31, 500, 0};
  store.prefetch(ids);
  store.prefetch(ids);  // on their way
  release();
  throw_if_error(read(store, ids));
  EXPECT_TRUE(right(ids));
  throw_if_error(read(store, ids));
  const StoreStats stats = store.stats();
  EXPECT_EQ(stats.prefetch.requested, 6u);
  EXPECT_EQ(stats.prefetch.useless, 3u);
  EXPECT_EQ(stats.prefetch.used + stats.prefetch.late, 3u);
  EXPECT_EQ(stats.find_tier("drive")->pages, 3u);
  EXPECT_EQ(stats.find_tier("cache")->resident_rows, 3u);
}

TEST_F(DriveFaultTest, LocateTellsHotCacheAndBelow) {
  if (!knows_the_page_cache()) GTEST_SKIP() << "the system does not tell what its page cache holds";
  auto base = open_page_cache();
  auto hot = value_or_throw(HotSet::load(*base, {3, 700}));
  CachedStore store(std::move(base), std::move(hot), value_or_throw(RowCache::create(1 << 20, 264)));
  throw_if_error(read(store, std::vector<int64_t>{5, 700}));
  const std::vector<int64_t> ids = {5, 700, 6, 3, table_.num_rows, -1};
  std::vector<uint8_t> tiers(ids.size());
  for (int look = 0; look < 2; ++look) {  // row 6 is in the page cache and is not taken from there
    store.locate(ids, tiers);
    EXPECT_EQ(tiers, (std::vector<uint8_t>{1, 0, 2, 0, 3, 3}));
  }
  EXPECT_EQ(store.stats().tiers[2].name, "page_cache");
  EXPECT_EQ(store.stats().find_tier("cache")->resident_rows, 1u);
}

// Reads of one row by many callers go to the drive once.
TEST_F(DriveFaultTest, CallersShareWhatIsUnderWay) {
  CachedStore store(open_held_nvme(), nullptr, value_or_throw(RowCache::create(1 << 20, 264)));
  std::vector<std::vector<std::byte>> outs(40, std::vector<std::byte>(2 * 264));
  std::vector<Pending> pending;
  const std::vector<int64_t> ids = {7, 900};
  for (auto& out : outs) pending.push_back(store.read(ids, out));
  release();
  for (Pending& read : pending) throw_if_error(read.wait());
  for (auto& out : outs) EXPECT_TRUE(out == wanted_rows(table_, ids));
  EXPECT_EQ(store.stats().find_tier("drive")->pages, 2u);
}

TEST_F(DriveFaultTest, FullQueueDropsHintsAndBlocksReads) {
  DriveOptions small = options(held());
  small.max_queued_rows = 4;
  const auto file = value_or_throw(DriveFile::open(path("rows"), small));
  auto store = value_or_throw(PageCacheStore::open(file, 1));
  for (int64_t i = 0; i < 500; ++i) store->prefetch(std::vector<int64_t>{i, i + 100, i + 200});
  release();
  throw_if_error(read(*store, std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));  // more than the limit alone
  EXPECT_TRUE(right(std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
  const StoreStats stats = store->stats();
  EXPECT_EQ(stats.prefetch.requested, 1500u);
  EXPECT_GT(stats.prefetch.dropped, 0u);
}

TEST_F(DriveFaultTest, BadOptionsAreRefused) {
  DriveOptions bad = options();
  for (int depth : {0, -1, 257}) {
    bad.reader.depth = depth;
    EXPECT_EQ(DriveFile::open(path("rows"), bad).status().code(), StatusCode::kInvalidArgument);
  }
  bad = options();
  bad.max_queued_rows = 0;
  EXPECT_EQ(DriveFile::open(path("rows"), bad).status().code(), StatusCode::kInvalidArgument);
  bad = options();
  bad.reader.direct = true;
  EXPECT_EQ(PageCacheStore::open(value_or_throw(DriveFile::open(path("rows"), bad)), 1).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(DriveFile::open(folder_, options()).status().code(), StatusCode::kDataLoss);
}

// Callers of all kinds at once, over a drive with transient and lasting faults. ENGRAM_STRESS_SECONDS sets how long.
TEST_F(DriveFaultTest, Stress) {
  const char* seconds = std::getenv("ENGRAM_STRESS_SECONDS");
  const auto end = std::chrono::steady_clock::now() +
                   std::chrono::milliseconds(seconds != nullptr ? std::atoi(seconds) * 1000 : 1500);
  const auto plan = [&](uint64_t seed) -> PageFaultPlan {
    return {.fault =
                [bad = table_.first_page + 2](int64_t page, int64_t attempt) {
                  if (page == bad) return PageFault::kFlip;
                  // So seldom that other callers' reads of the page cannot turn a repetition into the next fault.
                  return attempt % 1009 == 3 ? static_cast<PageFault>(page % 5) : PageFault::kNone;
                },
            .reorder = true,
            .seed = seed};
  };
  std::atomic<int64_t> good{0}, failed{0};
  const auto call = [&](RowStore& store, uint64_t seed) {
    std::mt19937_64 random(seed);
    std::vector<std::byte> out;
    while (std::chrono::steady_clock::now() < end) {
      const auto ids = random_ids(random, table_.num_rows, random() % (random() % 16 == 0 ? 2000 : 64));
      const bool touches_bad = std::ranges::any_of(ids, [](int64_t id) { return id >= 30 && id < 45; });
      if (random() % 3 == 0) store.prefetch(ids);
      out.assign(ids.size() * store.row_bytes(), std::byte{0});
      Pending pending = store.read(ids, out);
      if (random() % 4 == 0) (void)store.stats().to_json();
      const Status status = pending.wait();
      if (status.ok()) {
        ASSERT_FALSE(touches_bad);
        ASSERT_TRUE(out == wanted_rows(table_, ids));
        ++good;
      } else {
        ASSERT_TRUE(touches_bad) << status.message();
        ++failed;
      }
    }
  };
  DriveOptions small = options(plan(1));
  small.max_queued_rows = 512;
  const auto file = value_or_throw(DriveFile::open(path("rows"), small));
  std::vector<std::unique_ptr<RowStore>> stores;
  stores.push_back(value_or_throw(NvmeStore::open(file, 1)));
  stores.push_back(value_or_throw(PageCacheStore::open(file, 1)));
  stores.push_back(std::make_unique<CachedStore>(value_or_throw(NvmeStore::open(file, 1)), nullptr,
                                                 value_or_throw(RowCache::create(60 << 10, 264))));
  small.reader.kind = PageReaderKind::kThreads;
  const auto by_threads = value_or_throw(DriveFile::open(path("rows"), small));
  stores.push_back(std::make_unique<CachedStore>(value_or_throw(PageCacheStore::open(by_threads, 1)), nullptr,
                                                 value_or_throw(RowCache::create(20 << 10, 264))));
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < 8; ++i) threads.emplace_back([&, i] { call(*stores[i % stores.size()], i); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(good.load(), 0);
  EXPECT_GT(failed.load(), 0);
  for (const auto& store : stores) EXPECT_EQ(store->stats().reads + store->stats().failed_reads > 0, true);
}

}  // namespace
}  // namespace engram
