#include "engram/store/open.h"

#include "engram/formats/safetensors.h"
#include "tests/store/store_test.h"

namespace engram {
namespace {

class OpenTest : public StoreTest {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    throw_if_error(write_row_file(Env::posix(), path("rows"), info_));
  }
  // A profile of layer 1 (and empty ones of the others) with these rows.
  void write_profile(const std::string& name, const std::vector<int64_t>& ids) const {
    const auto count = static_cast<int64_t>(ids.size());
    auto writer = value_or_throw(SafetensorsWriter::create(Env::posix(), path(name),
                                                           {{"layers.1.row_ids", DType::kI64, {count}},
                                                            {"layers.5.row_ids", DType::kI64, {0}},
                                                            {"layers.14.row_ids", DType::kI64, {0}}}));
    throw_if_error(writer->append(std::as_bytes(std::span(ids))));
    throw_if_error(writer->finish());
  }
  Status status_of(const std::string& uri) const { return open_row_stores(Env::posix(), uri).status(); }
  const RowFileInfo info_ = test_row_file_info();
};

TEST_F(OpenTest, EveryTierGivesTheRows) {
  write_profile("profile", {3, 1000, 44});
  for (const std::string& uri :
       {"dram:" + path("rows"), "dram:" + path("rows") + "?threads=3", "pagecache:" + path("rows"),
        "mapped:" + path("rows"), "nvme:" + path("rows"), "nvme:" + path("rows") + "?direct=0&depth=7&io=threads",
        "nvme:" + path("rows") + "?direct=1&depth=128&cache=2MiB&hot=" + path("profile") + "&hot_size=600",
        "pagecache:" + path("rows") + "?cache=1MiB", "mapped:" + path("rows") + "?hot=" + path("profile")}) {
    auto table = value_or_throw(open_row_stores(Env::posix(), uri));
    EXPECT_EQ(table.layer_ids, (std::vector<int>{1, 5, 14}));
    for (size_t i = 0; i < 3; ++i) {
      const std::vector<int64_t> ids = {2, 0, 1, 2};
      std::vector<std::byte> out(4 * table.stores[i]->row_bytes());
      throw_if_error(table.stores[i]->read(ids, out).wait());
      EXPECT_TRUE(out == wanted_rows(info_.tables[i], ids)) << uri;
    }
  }
}

TEST_F(OpenTest, LayersAreChosen) {
  const auto table = value_or_throw(open_row_stores(Env::posix(), "dram:" + path("rows"), std::vector<int>{14, 1}));
  EXPECT_EQ(table.stores[0]->num_rows(), info_.tables[2].num_rows);
  EXPECT_EQ(table.stores[1]->num_rows(), info_.tables[0].num_rows);
  EXPECT_EQ(open_row_store(Env::posix(), "dram:" + path("rows"), 5).value()->num_rows(), info_.tables[1].num_rows);
  EXPECT_EQ(open_row_store(Env::posix(), "nvme:" + path("rows"), 6).status().code(), StatusCode::kNotFound);
}

TEST_F(OpenTest, HotRowsArePinned) {
  write_profile("profile", {3, 1000, 44, 7});
  const std::string uri = "nvme:" + path("rows") + "?direct=0&hot=" + path("profile");
  const std::vector<int64_t> ids = {3, 44, 44, 8};
  std::vector<std::byte> out(ids.size() * 264);
  const auto store = value_or_throw(open_row_store(Env::posix(), uri, 1));
  throw_if_error(store->read(ids, out).wait());
  EXPECT_TRUE(out == wanted_rows(info_.tables[0], ids));
  EXPECT_EQ(store->stats().find_tier("hot")->hits, 3u);
  EXPECT_EQ(store->stats().find_tier("hot")->resident_rows, 4u);
  // A size for two rows keeps the first two of the profile.
  const auto two = value_or_throw(open_row_store(Env::posix(), uri + "&hot_size=600", 1));
  throw_if_error(two->read(ids, out).wait());
  EXPECT_EQ(two->stats().find_tier("hot")->hits, 1u);
  EXPECT_EQ(two->stats().find_tier("hot")->resident_rows, 2u);

  write_profile("outside", {3, 1007});
  EXPECT_EQ(status_of("nvme:" + path("rows") + "?hot=" + path("outside")).code(), StatusCode::kDataLoss);
  write_profile("twice", {3, 4, 3});
  EXPECT_EQ(status_of("nvme:" + path("rows") + "?hot=" + path("twice")).code(), StatusCode::kDataLoss);
  EXPECT_EQ(status_of("nvme:" + path("rows") + "?hot=" + path("none")).code(), StatusCode::kNotFound);
}

TEST_F(OpenTest, NamesMayHoldAnyByte) {
  throw_if_error(Env::posix().rename_file(path("rows"), path("a?b&c%d:e")));
  EXPECT_TRUE(status_of("dram:" + path("a%3Fb%26c%25d:e")).ok());
  EXPECT_EQ(status_of("dram:" + path("a%3")).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status_of("dram:" + path("a%zz")).code(), StatusCode::kInvalidArgument);
}

TEST_F(OpenTest, BadUrisAreRefused) {
  const std::string file = path("rows");
  const std::vector<std::pair<std::string, std::string>> bad = {
      {file, "wanted TIER:FILE"},
      {"", "wanted TIER:FILE"},
      {"ram:" + file, "tier: got 'ram'"},
      {"dram:", "no file"},
      {"dram:?threads=1", "no file"},
      {"dram:" + file + "?depth=3", "dram: has no key 'depth'"},
      {"nvme:" + file + "?dept=3", "nvme: has no key 'dept', only cache, hot, hot_size, overlay, direct, depth, io"},
      {"pagecache:" + file + "?direct=1", "pagecache: has no key 'direct'"},
      {"nvme:" + file + "?depth=0", "depth: got '0', wanted 1 .. 256"},
      {"nvme:" + file + "?depth=257", "depth"},
      {"nvme:" + file + "?depth=4x", "depth"},
      {"nvme:" + file + "?depth=", "depth"},
      {"nvme:" + file + "?depth", "wanted key=value"},
      {"nvme:" + file + "?", "wanted key=value"},
      {"nvme:" + file + "?depth=3&depth=4", "appears twice"},
      {"nvme:" + file + "?direct=2", "direct"},
      {"nvme:" + file + "?io=aio", "wanted auto, io_uring or threads"},
      {"nvme:" + file + "?cache=0", "cache"},
      {"nvme:" + file + "?cache=1GB", "size: got '1GB'"},
      {"nvme:" + file + "?cache=-1", "size"},
      {"nvme:" + file + "?cache=9999999TiB", "size"},
      {"nvme:" + file + "?cache=1000", "a cache of"},  // below one page
      {"nvme:" + file + "?hot=", "hot"},
      {"nvme:" + file + "?hot_size=3", "without hot"},
  };
  for (const auto& [uri, message] : bad) {
    const Status status = status_of(uri);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << uri;
    EXPECT_NE(status.message().find(message), std::string::npos) << uri << ": " << status.message();
  }
}

// 100 raw ids that map to 50, layers 1 and 14: a file says which map and layers it was made for.
TEST_F(OpenTest, AFileHashesForItsOwnTokenizer) {
  std::vector<int32_t> halves(100);
  for (int i = 0; i < 100; ++i) halves[static_cast<size_t>(i)] = i / 2;
  const TokenMap map = value_or_throw(TokenMap::from_ids(halves, 50));
  EngramConfig config;
  config.layer_ids = {1, 14};
  config.n_heads = 2;
  config.head_dim = 4;
  config.vocab_size = {97, 211};
  config.compressed_vocab_size = 50;
  const EngramLayout layout = value_or_throw(EngramLayout::create(config, map));
  const RowFileInfo info = value_or_throw(RowFileInfo::create(
      {make_table(14, layout.num_rows(1), {RowType::kFP32, 4}), make_table(1, layout.num_rows(0), {RowType::kFP32, 4})},
      RowFileHash{config, layout.compressed_pad_id(), map.sha256()}));
  throw_if_error(write_row_file(Env::posix(), path("hashed"), info));
  const std::vector<int32_t> tokens = {5, 7, 99, -1, 4};
  const RowIds wanted = value_or_throw(value_or_throw(MemoryHasher::create(layout, map)).hash(tokens));
  const RowIds in_file = value_or_throw(value_or_throw(info.hasher(map)).hash(tokens));
  const RowIds one = value_or_throw(value_or_throw(info.hasher(map, std::vector<int>{14})).hash(tokens));
  EXPECT_TRUE(std::ranges::equal(in_file.layer(0), wanted.layer(1)));  // in the file's order
  EXPECT_TRUE(std::ranges::equal(in_file.layer(1), wanted.layer(0)));
  EXPECT_TRUE(std::ranges::equal(one.layer(0), wanted.layer(1)));
  EXPECT_EQ(info.hasher(map, std::vector<int>{2}).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(info.hasher(TokenMap::identity(50)).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(test_row_file_info().hasher(map).status().code(), StatusCode::kFailedPrecondition);
  // A profile counts the rows of one tokenizer.
  for (const std::string& digest : {map.sha256(), TokenMap::identity(50).sha256()}) {
    auto profile = value_or_throw(
        SafetensorsWriter::create(Env::posix(), path("profile"),
                                  {{"layers.1.row_ids", DType::kI64, {0}}, {"layers.14.row_ids", DType::kI64, {0}}},
                                  {{"token_map_sha256", digest}}));
    throw_if_error(profile->finish());
    EXPECT_EQ(status_of("nvme:" + path("hashed") + "?hot=" + path("profile")).code(),
              digest == map.sha256() ? StatusCode::kOk : StatusCode::kFailedPrecondition);
  }
}

TEST_F(OpenTest, Sizes) {
  EXPECT_EQ(value_or_throw(parse_size("0")), 0);
  EXPECT_EQ(value_or_throw(parse_size("17")), 17);
  EXPECT_EQ(value_or_throw(parse_size("3KiB")), 3072);
  EXPECT_EQ(value_or_throw(parse_size("2GiB")), int64_t{2} << 30);
  EXPECT_EQ(value_or_throw(parse_size("1048576TiB")), int64_t{1} << 60);
  for (const char* bad : {"", "x", "1 KiB", "1kib", "1.5GiB", "1048577TiB", "99999999999999999999"})
    EXPECT_FALSE(parse_size(bad).ok()) << bad;
}

}  // namespace
}  // namespace engram
