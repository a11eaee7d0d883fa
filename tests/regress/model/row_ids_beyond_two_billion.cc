// The de-duplication of row ids kept four bytes for every row of the table, 1.5 GB for a layer of V4.1, and numbered
// rows in 32 bits: beyond 2^31 rows it ended without a word. Its memory is the batch's, whatever the table.
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "engram/model/memory/row_deduplicator.h"

namespace engram {
namespace {

void expect_first_seen(RowDeduplicator& dedup, const std::vector<int64_t>& ids) {
  std::map<int64_t, int64_t> positions;
  std::vector<int64_t> wanted, wanted_index, unique, index;
  for (int64_t id : ids) {
    if (positions.emplace(id, std::ssize(wanted)).second) wanted.push_back(id);
    wanted_index.push_back(positions.at(id));
  }
  dedup.run(ids, unique, index);
  EXPECT_EQ(unique, wanted);
  EXPECT_EQ(index, wanted_index);
}

TEST(RowIdsBeyondTwoBillion, ATableOfAnySizeTakesTheBatchsMemory) {
  RowDeduplicator dedup(int64_t{1} << 44);  // 64 TB, four bytes a row
  std::mt19937_64 random(1);
  for (size_t count : {0u, 1u, 3u, 100u, 20000u, 7u}) {
    std::vector<int64_t> ids(count);
    for (int64_t& id : ids) id = static_cast<int64_t>(random() >> 20) % (random() % 2 == 0 ? 300 : int64_t{1} << 44);
    expect_first_seen(dedup, ids);
    std::vector<int64_t> far(count);  // what a number of 32 bits would take for the same rows
    for (size_t i = 0; i < count; ++i) far[i] = static_cast<int64_t>(i % 50) << 32;
    expect_first_seen(dedup, far);
  }
  std::vector<int64_t> unique, index;
  EXPECT_THROW(dedup.run(std::vector<int64_t>{int64_t{1} << 44}, unique, index), c10::Error);
}

TEST(RowIdsBeyondTwoBillion, TablesOfAllSizesKeepTheOrder) {
  std::mt19937_64 random(2);
  for (int64_t rows : {1, 2, 63, 64, 65, 1000, 4097, 300000}) {
    RowDeduplicator dedup(rows);
    for (size_t count : {1u, 5u, 16u, 17u, 300u, 5000u, 40u}) {  // with an entry for each row, and hashed
      std::vector<int64_t> ids(count);
      for (int64_t& id : ids) id = static_cast<int64_t>(random() % static_cast<uint64_t>(rows));
      expect_first_seen(dedup, ids);
    }
    std::vector<int64_t> unique, index;
    EXPECT_THROW(dedup.run(std::vector<int64_t>{0, rows}, unique, index), c10::Error);
    EXPECT_THROW(dedup.run(std::vector<int64_t>{-1, 0}, unique, index), c10::Error);
    expect_first_seen(dedup, {rows - 1, 0, rows - 1});  // an error leaves nothing behind
  }
}

}  // namespace
}  // namespace engram
