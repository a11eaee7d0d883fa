#include "engram/dist/partition.h"

#include <gtest/gtest.h>

namespace engram {
namespace {

TEST(RowPartition, CoversEachRowOnce) {
  for (const int64_t rows : {0, 1, 255, 256, 257, 1000, 4096, 5003}) {
    for (const int ranks : {1, 2, 3, 4, 7, 64}) {
      const RowPartition partition(rows, ranks);
      std::vector<int64_t> next(ranks, 0);  // owners' indices are dense and rise with the row
      for (int64_t row = 0; row < rows; ++row) {
        const int owner = partition.owner(row);
        ASSERT_EQ(partition.local(row), next[owner]++) << row << " of " << rows << " over " << ranks;
        ASSERT_EQ(partition.global(owner, partition.local(row)), row);
      }
      int64_t most = 0, fewest = INT64_MAX;
      for (int rank = 0; rank < ranks; ++rank) {
        ASSERT_EQ(partition.count(rank), next[rank]) << rank << " of " << ranks << ", " << rows << " rows";
        most = std::max(most, next[rank]);
        fewest = std::min(fewest, next[rank]);
      }
      EXPECT_LE(most - fewest, RowPartition::kBlock);
    }
  }
}

TEST(RowPartition, RunsAreInOrder) {
  for (const int ranks : {1, 3, 4}) {
    const RowPartition partition(5003, ranks);
    for (const auto& [begin, end] :
         {std::pair<int64_t, int64_t>{0, 5003}, {100, 100}, {255, 257}, {300, 310}, {700, 4000}}) {
      int64_t at = begin;
      partition.ranges(begin, end, [&](int owner, int64_t row, int64_t local, int64_t count) {
        EXPECT_EQ(row, at);
        EXPECT_GT(count, 0);
        for (int64_t i = 0; i < count; ++i) {
          EXPECT_EQ(partition.owner(row + i), owner);
          EXPECT_EQ(partition.local(row + i), local + i);
        }
        at += count;
      });
      EXPECT_EQ(at, end);
    }
  }
}

TEST(EvenRange, CoversItemsOnce) {
  for (const int64_t items : {int64_t{0}, int64_t{1}, int64_t{7}, int64_t{12}, INT64_MAX - 1}) {
    for (const int parts : {1, 2, 3, 5, 16}) {
      int64_t at = 0;
      for (int part = 0; part < parts; ++part) {
        const Range range = even_range(items, parts, part);
        EXPECT_EQ(range.begin, at);
        EXPECT_GE(range.size(), items / parts);
        EXPECT_LE(range.size(), items / parts + 1);
        at = range.end;
      }
      EXPECT_EQ(at, items);
    }
  }
}

TEST(Balance, LargestFirstAndTiesByIndex) {
  EXPECT_EQ(balance(std::vector<int64_t>{1, 5, 3, 3, 2}, 2), (std::vector<int>{1, 0, 1, 1, 0}));
  EXPECT_EQ(balance(std::vector<int64_t>{4, 4, 4}, 3), (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(balance(std::vector<int64_t>{7}, 4), (std::vector<int>{0}));
  EXPECT_TRUE(balance({}, 2).empty());
}

TEST(WeightOwners, DivideWhatIsLargerThanAShare) {
  const std::vector<Weight> weights = {{70, 1, true}, {60, 9, false}, {30, 4, true}, {20, 3, false}, {20, 3, true}};
  EXPECT_EQ((std::vector<int>{0, 0, 0, 0, 0}), weight_owners(weights, 1));
  EXPECT_EQ((std::vector<int>{0, 0, 1, 1, 1}), weight_owners(weights, 2));  // none has more than 100
  EXPECT_EQ((std::vector<int>{kDivided, 0, 1, 2, 2}), weight_owners(weights, 3));
  EXPECT_EQ((std::vector<int>{kDivided, 0, kDivided, 1, 2}), weight_owners(weights, 7));
  EXPECT_TRUE(weight_owners({}, 2).empty());
}

}  // namespace
}  // namespace engram
