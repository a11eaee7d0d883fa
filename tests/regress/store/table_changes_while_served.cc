// Seen: a table cut while the mapped tier served it ended the server with SIGBUS; one that was overwritten gave rows of
// the new bytes and "logits are not finite". Right: in every tier a read of a lost or damaged page fails with file and
// page, and rows of other pages are still served.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "engram/store/open.h"
#include "tests/store/store_test.h"

namespace engram {
namespace {

class TableChangesWhileServed : public StoreTest, public testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    throw_if_error(write_row_file(Env::posix(), path("t.rows"), info_));
    // The time of the last change lies clearly before what the test does.
    std::filesystem::last_write_time(path("t.rows"),
                                     std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
    store_ = open();
  }
  std::unique_ptr<RowStore> open() const {
    std::string uri = GetParam();
    uri.replace(uri.find("FILE"), 4, path("t.rows"));
    return value_or_throw(open_row_store(Env::posix(), uri, 1));
  }
  Status read(std::vector<int64_t> ids) {
    std::vector<std::byte> rows(ids.size() * store_->row_bytes());
    const Status status = store_->read(ids, rows).wait();
    if (status.ok()) {
      EXPECT_EQ(rows, wanted_rows(table_, ids));
    }
    return status;
  }
  void expect_page_named(const Status& status, int64_t row) {
    EXPECT_EQ(status.code(), StatusCode::kDataLoss);
    EXPECT_NE(status.message().find(path("t.rows")), std::string::npos) << status.message();
    EXPECT_NE(status.message().find(fmt::format("page {}", table_.page_of(row))), std::string::npos)
        << status.message();
  }
  bool is_in_memory() const { return std::string(GetParam()).starts_with("dram"); }

  const RowFileInfo info_ = test_row_file_info();
  const RowTable table_ = info_.tables[0];
  const int64_t last_ = table_.num_rows - 1;
  std::unique_ptr<RowStore> store_;
};

TEST_P(TableChangesWhileServed, Cut) {
  throw_if_error(read({0, 5, last_}));
  std::filesystem::resize_file(path("t.rows"), static_cast<uintmax_t>(table_.first_page + 1) * kRowPageBytes);
  if (is_in_memory()) {
    throw_if_error(read({0, 5, last_}));
    return;
  }
  const int64_t middle = last_ / 2;
  expect_page_named(read({0, middle}), middle);
  expect_page_named(read({middle, 0}), middle);
  throw_if_error(read({0, 5}));
}

TEST_P(TableChangesWhileServed, CutToNothing) {
  throw_if_error(read({0}));
  std::filesystem::resize_file(path("t.rows"), 0);
  if (!is_in_memory()) expect_page_named(read({1000}), 1000);
}

TEST_P(TableChangesWhileServed, Overwritten) {
  const int64_t middle = last_ / 2;
  throw_if_error(read({0, middle, last_}));
  {
    std::fstream file(path("t.rows"), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(table_.page_of(middle) * kRowPageBytes + 100);
    file << std::string(64, '\xFF');
  }
  const bool is_cached = std::string(GetParam()).ends_with("1MiB");  // the row was read before
  if (!is_in_memory() && !is_cached) expect_page_named(read({0, middle}), middle);
  throw_if_error(read({0, last_}));
}

INSTANTIATE_TEST_SUITE_P(Tiers, TableChangesWhileServed,
                         testing::Values("mapped:FILE", "dram:FILE", "pagecache:FILE", "nvme:FILE?direct=0",
                                         "nvme:FILE", "nvme:FILE?cache=1MiB", "mapped:FILE?cache=1MiB"),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           std::erase_if(name, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; });
                           return name;
                         });

}  // namespace
}  // namespace engram
