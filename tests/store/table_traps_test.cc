// What engines got wrong with the rows of n-gram tables: one test each. What they hashed wrongly:
// tests/hash/dialect_traps_test.cc; scales that are registered and never loaded: dialect_tables_test.cc.
#include "engram/store/tiers/drive_store.h"
#include "tests/store/store_test.h"

namespace engram {
namespace {

class TableTraps : public StoreTest {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    throw_if_error(write_row_file(Env::posix(), path("rows"), info_));
  }
  // The pages of the drive that reading these rows takes.
  uint64_t pages_of(const RowTable& table, const std::vector<int64_t>& ids) const {
    DriveOptions options;
    options.reader.direct = false;
    const auto store =
        value_or_throw(NvmeStore::open(value_or_throw(DriveFile::open(path("rows"), options)), table.layer_id));
    std::vector<std::byte> out(ids.size() * store->row_bytes());
    throw_if_error(store->read(ids, out).wait());
    EXPECT_TRUE(out == wanted_rows(table, ids));
    return store->stats().find_tier("drive")->pages;
  }

  const RowFileInfo info_ = test_row_file_info();
};

// With columns split by head, one reader of five read as much as one reader of all. Here a row is read whole by whom
// it belongs to, so that readers together read no more pages than one alone.
TEST_F(TableTraps, ColumnsSplitByHeadAreNotReadFiveTimes) {
  const RowTable& table = info_.tables[0];
  constexpr int kReaders = 5;
  std::vector<int64_t> all;
  for (int64_t page = 0; page < 60; ++page) all.push_back(page * table.rows_per_page + page % table.rows_per_page);
  EXPECT_EQ(pages_of(table, all), 60u);
  uint64_t pages = 0;
  for (int reader = 0; reader < kReaders; ++reader) {
    std::vector<int64_t> own;
    for (const int64_t row : all) {
      if (row / table.rows_per_page % kReaders == reader) own.push_back(row);
    }
    pages += pages_of(table, own);
  }
  EXPECT_EQ(pages, 60u);
}

// A row over the edge of a page, its scales elsewhere, cost three page-ins.
TEST_F(TableTraps, ARowAndItsScalesAreOnePage) {
  for (const RowTable& table : info_.tables) {
    if (table.row_bytes > kRowPagePayload) {
      EXPECT_EQ(table.pages_per_row, (table.row_bytes + kRowPagePayload - 1) / kRowPagePayload);
      continue;
    }
    for (int64_t row = 0; row < table.num_rows; ++row)
      ASSERT_LE(table.offset_of(row) + table.row_bytes, kRowPagePayload) << "row " << row;
    for (const int64_t row : {int64_t{0}, table.rows_per_page - 1, table.rows_per_page, table.num_rows - 1})
      EXPECT_EQ(pages_of(table, {row}), 1u) << "row " << row << " of layer " << table.layer_id;
  }
  EXPECT_EQ(info_.tables[0].row_bytes, 256 + 256 / 32) << "fp8 values with a scale for each 32";
}

}  // namespace
}  // namespace engram
