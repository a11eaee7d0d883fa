// The suite that every RowStore passes: INSTANTIATE_TEST_SUITE_P(Tier, RowStoreContract, testing::Values(case)).
#pragma once
#include <algorithm>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>
#include <thread>

#include "engram/store/row_store.h"
#include "tests/store/store_test.h"

namespace engram {

struct StoreCase {
  std::string name;
  // Opens the tier over the row file test_row_file_info() describes, for one of its layers.
  std::function<Result<std::unique_ptr<RowStore>>(const std::string& path, int layer_id)> open;
};

inline void PrintTo(const StoreCase& store_case, std::ostream* out) { *out << store_case.name; }

class RowStoreContract : public StoreTest, public testing::WithParamInterface<StoreCase> {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    static std::string bytes;  // a writer syncs, which is slow; once is enough
    if (bytes.empty()) {
      throw_if_error(write_row_file(Env::posix(), path("rows"), info_));
      bytes = contents_of("rows");
    }
    write("rows", bytes);
  }
  std::unique_ptr<RowStore> open(const RowTable& table) const {
    return value_or_throw(GetParam().open(path("rows"), table.layer_id));
  }
  static void expect_rows(RowStore& store, const RowTable& table, std::span<const int64_t> ids) {
    std::vector<std::byte> out(ids.size() * store.row_bytes());
    const Status status = store.read(ids, out).wait();
    ASSERT_TRUE(status.ok()) << status.to_string();
    EXPECT_TRUE(out == wanted_rows(table, ids)) << "layer " << table.layer_id << ", " << ids.size() << " rows";
  }
  // Tiers stand fastest first, each asked for what the one before it missed; below a cache other things are counted.
  static void expect_tiers_add_up(const StoreStats& stats) {
    uint64_t asked = stats.rows;
    const bool cached = stats.tiers[0].name == "hot" || stats.tiers[0].name == "cache";
    for (const TierStats& tier : stats.tiers) {
      if (cached && tier.name != "hot" && tier.name != "cache") return;
      EXPECT_EQ(tier.hits + tier.misses, asked) << tier.name;
      asked = tier.misses;
    }
    EXPECT_EQ(asked, 0u);
  }

  const RowFileInfo info_ = test_row_file_info();
};

TEST_P(RowStoreContract, GivesTheRowsOfEveryTable) {
  for (const RowTable& table : info_.tables) {
    const auto store = open(table);
    EXPECT_EQ(store->num_rows(), table.num_rows);
    EXPECT_EQ(store->row_bytes(), static_cast<size_t>(table.row_bytes));
    std::vector<int64_t> all(static_cast<size_t>(table.num_rows));
    std::iota(all.begin(), all.end(), 0);
    expect_rows(*store, table, all);
    std::reverse(all.begin(), all.end());
    expect_rows(*store, table, all);
    std::shuffle(all.begin(), all.end(), std::mt19937_64(1));
    expect_rows(*store, table, all);
    expect_rows(*store, table, std::vector<int64_t>{table.num_rows - 1});
    expect_rows(*store, table, std::vector<int64_t>(50, 2));
    expect_rows(*store, table, std::vector<int64_t>{1, 0, 1, 2, 0, 0, 2, 1});
  }
}

TEST_P(RowStoreContract, EmptyReadIsOk) {
  const auto store = open(info_.tables[0]);
  throw_if_error(store->read({}, {}).wait());
  store->prefetch({});
}

TEST_P(RowStoreContract, BadArgumentsReadNothing) {
  const RowTable& table = info_.tables[0];
  const auto store = open(table);
  const auto before = store->stats().to_json();
  const std::vector<std::byte> untouched(3 * store->row_bytes(), std::byte{0xAB});
  std::vector<std::byte> out = untouched;
  for (int64_t bad : {int64_t{-1}, table.num_rows, INT64_MAX, INT64_MIN}) {
    const Status status = store->read(std::vector<int64_t>{0, bad, 1}, out).wait();
    EXPECT_EQ(status.code(), StatusCode::kOutOfRange);
    EXPECT_NE(status.message().find(std::to_string(bad)), std::string::npos) << status.message();
  }
  for (size_t size : {size_t{0}, store->row_bytes() - 1, 2 * store->row_bytes(), 3 * store->row_bytes() - 1}) {
    const Status status = store->read(std::vector<int64_t>{0, 1, 2}, std::span(out).first(size)).wait();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(store->read({}, std::span(out).first(1)).wait().code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(out == untouched);
  const StoreStats stats = store->stats();
  EXPECT_EQ(stats.rows, 0u);
  EXPECT_EQ(stats.failed_reads, 9u);
  EXPECT_EQ(stats.to_json()["tiers"], before["tiers"]);
}

TEST_P(RowStoreContract, ManyThreads) {
  for (const RowTable& table : info_.tables) {
    const auto store = open(table);
    std::vector<std::thread> threads;
    for (uint64_t seed = 0; seed < 4; ++seed) {
      threads.emplace_back([&, seed] {
        std::mt19937_64 random(seed);
        for (int i = 0; i < 15; ++i) {
          const auto ids = random_ids(random, table.num_rows, random() % 60);
          if (random() % 2 == 0) store->prefetch(ids);
          expect_rows(*store, table, ids);
          if (i % 8 == 0) (void)store->stats();
          std::vector<uint8_t> tiers(ids.size());
          store->locate(ids, tiers);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
}

TEST_P(RowStoreContract, ManyReadsUnderWay) {
  const RowTable& table = info_.tables[0];
  const auto store = open(table);
  std::mt19937_64 random(3);
  std::vector<std::vector<int64_t>> ids;
  std::vector<std::vector<std::byte>> outs;
  std::vector<Pending> pending;
  for (int i = 0; i < 50; ++i) {
    ids.push_back(random_ids(random, table.num_rows, 1 + random() % 40));
    outs.emplace_back(ids.back().size() * store->row_bytes());
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    std::vector<int64_t> copy = ids[i];
    pending.push_back(store->read(copy, outs[i]));
    std::ranges::fill(copy, -1);  // ids are copied
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    throw_if_error(pending[i].wait());
    EXPECT_TRUE(outs[i] == wanted_rows(table, ids[i])) << i;
  }
}

TEST_P(RowStoreContract, PrefetchChangesNoResult) {
  for (const RowTable& table : info_.tables) {
    const auto store = open(table);
    std::mt19937_64 random(4);
    for (int i = 0; i < 10; ++i) {
      const auto ids = random_ids(random, table.num_rows, 30);
      std::vector<int64_t> hint = ids;
      hint.insert(hint.end(), {-1, table.num_rows, INT64_MIN, INT64_MAX, ids[0]});
      store->prefetch(hint);
      expect_rows(*store, table, ids);
    }
  }
}

TEST_P(RowStoreContract, DestructionEndsReads) {
  const RowTable& table = info_.tables[0];
  for (int round = 0; round < 10; ++round) {
    auto store = open(table);
    std::mt19937_64 random(static_cast<uint64_t>(round));
    std::vector<std::vector<int64_t>> ids;
    std::vector<std::vector<std::byte>> outs;
    std::vector<Pending> pending;
    for (int i = 0; i < 8; ++i) {
      ids.push_back(random_ids(random, table.num_rows, 100));
      outs.emplace_back(ids.back().size() * store->row_bytes());
    }
    for (size_t i = 0; i < ids.size(); ++i) pending.push_back(store->read(ids[i], outs[i]));
    store->prefetch(random_ids(random, table.num_rows, 100));
    store.reset();
    for (size_t i = 0; i < ids.size(); ++i) {
      EXPECT_TRUE(pending[i].done());
      throw_if_error(pending[i].wait());
      EXPECT_TRUE(outs[i] == wanted_rows(table, ids[i])) << i;
    }
  }
}

TEST_P(RowStoreContract, StatsAddUp) {
  for (const RowTable& table : info_.tables) {
    const auto store = open(table);
    std::mt19937_64 random(5);
    uint64_t rows = 0;
    for (int i = 0; i < 10; ++i) {
      const auto ids = random_ids(random, table.num_rows, 64);
      if (i % 2 == 0) store->prefetch(ids);
      expect_rows(*store, table, ids);
      rows += ids.size();
    }
    const StoreStats stats = store->stats();
    EXPECT_EQ(stats.reads, 10u);
    EXPECT_EQ(stats.failed_reads, 0u);
    EXPECT_EQ(stats.rows, rows);
    expect_tiers_add_up(stats);
    EXPECT_LE(stats.unique_rows, rows);
    EXPECT_GT(stats.unique_rows, 0u);
    EXPECT_EQ(stats.read.count, 10u);
    EXPECT_GE(stats.read.us_max, stats.read.us_p50);
    EXPECT_EQ(stats.to_json()["rows"], rows);
    const std::string text = stats.to_prometheus("layer=\"1\"");
    EXPECT_NE(text.find("engram_store_rows_total{layer=\"1\"} 640\n"), std::string::npos) << text;
    EXPECT_NE(text.find("tier=\"" + stats.tiers[0].name + "\""), std::string::npos) << text;
  }
}

// The tier that locate() names is the one whose hits the next read adds to; looking changes nothing.
TEST_P(RowStoreContract, LocateForetellsTheTier) {
  for (const RowTable& table : info_.tables) {
    const auto store = open(table);
    for (int64_t id : {int64_t{0}, int64_t{1}, int64_t{2}, table.num_rows - 1}) {
      expect_rows(*store, table, std::vector<int64_t>{id});
      std::vector<uint8_t> tiers(1, 255);
      store->locate(std::vector<int64_t>{id}, tiers);
      const StoreStats before = store->stats();
      store->locate(std::vector<int64_t>{id}, tiers);
      EXPECT_EQ(store->stats().to_json(), before.to_json());
      expect_rows(*store, table, std::vector<int64_t>{id});
      const StoreStats after = store->stats();
      for (size_t tier = 0; tier < after.tiers.size(); ++tier)
        EXPECT_EQ(after.tiers[tier].hits - before.tiers[tier].hits, tier == tiers[0] ? 1u : 0u)
            << after.tiers[tier].name << ", row " << id << " located in tier " << int{tiers[0]};
    }
    const std::vector<int64_t> outside = {-1, table.num_rows, INT64_MAX, INT64_MIN};
    std::vector<uint8_t> tiers(outside.size(), 255);
    store->locate(outside, tiers);
    EXPECT_EQ(tiers, std::vector<uint8_t>(4, static_cast<uint8_t>(store->stats().tiers.size() - 1)));
    store->locate({}, {});
  }
}

TEST_P(RowStoreContract, RefusesWhatIsNoRowFile) {
  write("bad", std::string(8192, 'x'));
  EXPECT_EQ(GetParam().open(path("bad"), 1).status().code(), StatusCode::kDataLoss);
  EXPECT_EQ(GetParam().open(path("none"), 1).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(GetParam().open(path("rows"), 2).status().code(), StatusCode::kNotFound);
  std::string cut = contents_of("rows");
  cut.resize(cut.size() - 4096);
  write("bad", cut);
  EXPECT_EQ(GetParam().open(path("bad"), 1).status().code(), StatusCode::kDataLoss);
}

// A damaged page of the file is named, at the latest when a row of it is read; the other rows are right.
TEST_P(RowStoreContract, DamageIsFound) {
  std::string bytes = contents_of("rows");
  const RowTable& table = info_.tables[0];
  const int64_t page = table.first_page + 3;
  bytes[static_cast<size_t>(page) * 4096 + 50] ^= 1;
  write("rows", bytes);
  const auto opened = GetParam().open(path("rows"), table.layer_id);
  Status status = opened.status();
  if (opened.ok()) {
    const RowStore& store = *opened.value();
    std::vector<std::byte> out(2 * store.row_bytes());
    expect_rows(*opened.value(), table, std::vector<int64_t>{0, 44, 60, 1006});
    status = opened.value()->read(std::vector<int64_t>{0, 45}, out).wait();
    expect_rows(*opened.value(), table, std::vector<int64_t>{0, 44, 60, 1006});
  }
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_NE(status.message().find(fmt::format("{}: page {} is damaged", path("rows"), page)), std::string::npos)
      << status.message();
}

}  // namespace engram
