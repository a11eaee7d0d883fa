// A system that had no thread for a table that was opened ended the program in std::terminate. Right: an error that the
// caller gets; rows are loaded into memory by the thread that asks.
#include "engram/store/tiers/dram_store.h"
#include "engram/store/tiers/drive_store.h"
#include "tests/regress/refused_threads.h"
#include "tests/store/store_test.h"

#ifdef ENGRAM_CAN_REFUSE_THREADS
namespace engram {
namespace {

class ThreadIsRefused : public StoreTest {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    throw_if_error(write_row_file(Env::posix(), path("rows"), test_row_file_info()));
  }
  void TearDown() override {
    threads_left = INT_MAX;
    StoreTest::TearDown();
  }
};

TEST_F(ThreadIsRefused, MemoryIsFilledAnyway) {
  for (const int left : {0, 2}) {
    threads_left = left;
    const auto store = value_or_throw(DramStore::open(Env::posix(), path("rows"), 5, 4));
    EXPECT_EQ(threads_left, left - 4) << "it asked for four";
    const auto wanted = expected_rows(test_row_file_info().tables[1], 0, store->num_rows());
    EXPECT_TRUE(std::ranges::equal(store->rows().first(wanted.size()), wanted)) << left;
  }
}

TEST_F(ThreadIsRefused, DriveFilesGiveAnError) {
  DriveOptions options;
  options.reader.direct = false;
  options.reader.depth = 8;
  options.reader.kind = PageReaderKind::kThreads;
  for (const int left : {0, 3, 8}) {  // the first of the reader, its fourth, the queue's
    threads_left = left;
    const Status status = DriveFile::open(path("rows"), options).status();
    EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
    EXPECT_EQ(status.message(), path("rows") + ": cannot start a thread: Resource temporarily unavailable");
  }
  options.reader.kind = PageReaderKind::kAny;
  threads_left = 0;
  EXPECT_EQ(DriveFile::open(path("rows"), options).status().code(), StatusCode::kResourceExhausted);
  threads_left = INT_MAX;
  EXPECT_TRUE(DriveFile::open(path("rows"), options).ok());
}

}  // namespace
}  // namespace engram
#endif
