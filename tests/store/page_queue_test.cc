// How PageQueue keeps a drive busy: a PageReader in between sees every read go out.
#include "engram/store/rowfile/page_queue.h"

#include <gtest/gtest.h>

#include <latch>

#include "engram/store/tiers/drive_store.h"
#include "tests/store/store_test.h"

namespace engram {
namespace {

// Passes everything on to the real one.
class PageReaderInBetween : public PageReader {
 public:
  explicit PageReaderInBetween(std::unique_ptr<PageReader> base) : base_(std::move(base)) {}
  const char* name() const override { return base_->name(); }
  int depth() const override { return base_->depth(); }
  std::span<std::byte> buffer(int slot) override { return base_->buffer(slot); }
  void start(int slot, int64_t page) override { base_->start(slot, page); }
  void wait(std::vector<PageDone>& done) override { base_->wait(done); }
  void wake() override { base_->wake(); }
  int64_t read_resident(int64_t page, int64_t offset, std::span<std::byte> out) const override {
    return base_->read_resident(page, offset, out);
  }
  bool has_changed() const override { return base_->has_changed(); }
  const RandomAccessFile& file() const override { return base_->file(); }

 protected:
  const std::unique_ptr<PageReader> base_;
};

// Notes what goes out; the first wait() waits for `all_queued`.
class NotingReader final : public PageReaderInBetween {
 public:
  struct Seen {
    std::latch all_queued{1};
    std::vector<int64_t> started;  // pages
    std::vector<int> in_flight;    // at each wait()
  };
  NotingReader(std::unique_ptr<PageReader> base, Seen& seen) : PageReaderInBetween(std::move(base)), seen_(seen) {}
  void start(int slot, int64_t page) override {
    ++in_flight_;
    seen_.started.push_back(page);
    base_->start(slot, page);
  }
  void wait(std::vector<PageDone>& done) override {
    seen_.all_queued.wait();
    seen_.in_flight.push_back(in_flight_);
    base_->wait(done);
    in_flight_ -= static_cast<int>(done.size());
  }

 private:
  Seen& seen_;
  int in_flight_ = 0;
};

// Keeps the end of `held` back until a read of `awaited` has gone out.
class HoldingReader final : public PageReaderInBetween {
 public:
  HoldingReader(std::unique_ptr<PageReader> base, int64_t held, int64_t awaited)
      : PageReaderInBetween(std::move(base)), held_(held), awaited_(awaited) {}
  void start(int slot, int64_t page) override {
    if (page == held_) held_slot_ = slot;
    awaited_started_ |= page == awaited_;
    base_->start(slot, page);
  }
  void wait(std::vector<PageDone>& done) override {
    if (awaited_started_ && held_done_.slot >= 0) {
      done.push_back(std::exchange(held_done_, {-1, 0}));
      return;
    }
    std::vector<PageDone> ended;
    base_->wait(ended);
    for (const PageDone& read : ended) {
      if (read.slot == held_slot_ && !awaited_started_)
        held_done_ = read;
      else
        done.push_back(read);
    }
  }

 private:
  const int64_t held_, awaited_;
  int held_slot_ = -1;
  bool awaited_started_ = false;
  PageDone held_done_{-1, 0};
};

class PageQueueTest : public StoreTest, public testing::WithParamInterface<PageReaderKind> {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    if (GetParam() == PageReaderKind::kUring && !has_read_ring()) GTEST_SKIP() << "the system has no io_uring";
    throw_if_error(write_row_file(Env::posix(), path("rows"), info_));
  }
  template <typename Wrap>
  std::unique_ptr<NvmeStore> open(int depth, Wrap wrap) const {
    DriveOptions options;
    options.reader.direct = false;
    options.reader.depth = depth;
    options.reader.kind = GetParam();
    options.reader.wrap = wrap;
    return value_or_throw(NvmeStore::open(value_or_throw(DriveFile::open(path("rows"), options)), 1));
  }

  std::unique_ptr<NvmeStore> open_noting(int depth, NotingReader::Seen& seen) const {
    return open(depth, [&](std::unique_ptr<PageReader> base) -> std::unique_ptr<PageReader> {
      return std::make_unique<NotingReader>(std::move(base), seen);
    });
  }

  const RowFileInfo info_ = test_row_file_info(10);
  const RowTable& table_ = info_.tables[0];  // 15 rows a page
};

// From the end of one read to the start of the next no slot stands empty while there are pages to read.
TEST_P(PageQueueTest, SlotsStayFullAcrossReads) {
  constexpr int kDepth = 8;
  NotingReader::Seen seen;
  auto store = open_noting(kDepth, seen);
  constexpr size_t kReads = 6, kPages = 50;
  std::vector<std::vector<int64_t>> ids(kReads);
  std::vector<std::vector<std::byte>> outs(kReads, std::vector<std::byte>(kPages * store->row_bytes()));
  std::vector<Pending> pending;
  for (size_t i = 0; i < kReads; ++i) {
    for (size_t page = 0; page < kPages; ++page) ids[i].push_back(static_cast<int64_t>((page * kReads + i) * 15));
    pending.push_back(store->read(ids[i], outs[i]));
  }
  seen.all_queued.count_down();
  for (size_t i = 0; i < kReads; ++i) {
    throw_if_error(pending[i].wait());
    EXPECT_TRUE(outs[i] == wanted_rows(table_, ids[i])) << i;
  }
  store.reset();
  // The end of the last read alone finds no more pages. The first wait() may have had the first read only.
  const auto not_full = std::ranges::count_if(seen.in_flight, [](int count) { return count < kDepth; });
  EXPECT_LE(not_full, kDepth) << seen.in_flight.size() << " waits";
  EXPECT_GE(seen.in_flight.size(), kReads * kPages / kDepth);
}

// Of one slot a long read and many short ones that came after it get half each, while short ones last: neither stalls
// the other.
TEST_P(PageQueueTest, LongAndShortReadsShareTheSlots) {
  NotingReader::Seen seen;
  auto store = open_noting(1, seen);
  std::vector<int64_t> all(static_cast<size_t>(store->num_rows()));
  std::iota(all.begin(), all.end(), 0);
  std::vector<std::byte> all_out(all.size() * store->row_bytes());
  std::vector<Pending> pending;
  pending.push_back(store->read(all, all_out));
  constexpr size_t kShort = 20;
  std::vector<std::vector<std::byte>> outs(kShort, std::vector<std::byte>(store->row_bytes()));
  for (size_t i = 0; i < kShort; ++i)
    pending.push_back(store->read(std::vector<int64_t>{static_cast<int64_t>(5000 + 15 * i)}, outs[i]));
  seen.all_queued.count_down();
  for (Pending& read : pending) throw_if_error(read.wait());
  EXPECT_TRUE(all_out == wanted_rows(table_, all));
  store.reset();
  const auto of_long = [&](size_t count) {
    return std::count_if(seen.started.begin(), seen.started.begin() + static_cast<std::ptrdiff_t>(count),
                         [&](int64_t page) { return page < table_.page_of(5000); });
  };
  EXPECT_NEAR(of_long(11), 5.5, 1);
  EXPECT_NEAR(of_long(41), 21, 1);
}

// A read that arrives while another is under way goes out at once, not when that one ends.
TEST_P(PageQueueTest, ReadsGoOutWhileOthersAreUnderWay) {
  for (int round = 0; round < 20; ++round) {
    const auto store = open(4, [&](std::unique_ptr<PageReader> base) -> std::unique_ptr<PageReader> {
      return std::make_unique<HoldingReader>(std::move(base), table_.first_page, table_.first_page + 10);
    });
    std::vector<std::byte> first(store->row_bytes()), second(store->row_bytes());
    Pending held = store->read(std::vector<int64_t>{0}, first);
    if (round % 2 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    throw_if_error(store->read(std::vector<int64_t>{150}, second).wait());
    throw_if_error(held.wait());
    EXPECT_TRUE(second == wanted_rows(table_, std::vector<int64_t>{150}));
    EXPECT_TRUE(first == wanted_rows(table_, std::vector<int64_t>{0}));
  }
}

INSTANTIATE_TEST_SUITE_P(Readers, PageQueueTest, testing::Values(PageReaderKind::kUring, PageReaderKind::kThreads),
                         [](const auto& instance) {
                           return instance.param == PageReaderKind::kUring ? "Uring" : "Threads";
                         });

}  // namespace
}  // namespace engram
