// Overlays in front of every tier: edited rows, all others to the bit, order, sizes, and what is refused.
#include "engram/store/tiers/overlay_store.h"

#include <functional>

#include "engram/core/crc32c.h"
#include "engram/formats/safetensors.h"
#include "engram/store/open.h"
#include "tests/store/store_test.h"

namespace engram {
namespace {

class OverlayTest : public StoreTest {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    throw_if_error(write_row_file(Env::posix(), path("rows"), info_));
  }

  // Rows of one byte value each in place of the table's, or of `earlier`'s.
  Overlay make(const std::string& name, int layer_id, const std::vector<int64_t>& ids, int fill,
               const Overlay* earlier = nullptr) const {
    const RowTable& table = info_.tables[static_cast<size_t>(value_or_throw(info_.find_layer(layer_id)))];
    Overlay::Layer layer{layer_id, ids, {}, {}};
    layer.rows.assign(ids.size() * static_cast<size_t>(table.row_bytes), static_cast<std::byte>(fill));
    for (int64_t id : ids) layer.replaced.push_back(crc32c(expected_rows(table, id, 1)));
    if (earlier != nullptr)
      layer.replaced[0] = crc32c(std::span(earlier->layers[0].rows).first(static_cast<size_t>(table.row_bytes)));
    return {path(name), {layer}};
  }
  std::string save(const Overlay& overlay) const {
    throw_if_error(overlay.save(Env::posix(), info_));
    return overlay.path;
  }
  Result<OpenTable> open(const std::string& tier, const std::vector<std::string>& overlays,
                         const std::string& more = "") const {
    std::string uri = tier + ":" + path("rows");
    for (size_t i = 0; i < overlays.size(); ++i) uri += (i == 0 ? "?overlay=" : "&overlay=") + overlays[i];
    return open_row_stores(Env::posix(), uri + more);
  }
  // All rows of a layer, where fill(id) gives the byte of an edited one, else -1.
  void expect_rows(RowStore& store, size_t at, const std::function<int(int64_t)>& fill) const {
    const RowTable& table = info_.tables[at];
    std::vector<int64_t> ids(static_cast<size_t>(table.num_rows));
    std::iota(ids.begin(), ids.end(), 0);
    std::vector<std::byte> out(ids.size() * store.row_bytes()), wanted = expected_rows(table, 0, table.num_rows);
    for (int64_t id : ids) {
      if (fill(id) >= 0)
        std::fill_n(wanted.begin() + id * table.row_bytes, table.row_bytes, static_cast<std::byte>(fill(id)));
    }
    throw_if_error(store.read(ids, out).wait());
    EXPECT_TRUE(out == wanted) << "layer " << table.layer_id;
  }
  static void expect_refusal(const Status& status, StatusCode code, const std::string& part) {
    EXPECT_EQ(status.code(), code) << status.message();
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
  }

  const RowFileInfo info_ = test_row_file_info();
};

TEST_F(OverlayTest, EditedRowsAreReadAndAllOthersAreTheTables) {
  const std::string before = contents_of("rows");
  const std::string fact = save(make("fact", 1, {0, 31, 1000}, 7));
  for (const auto& [tier, more] : std::vector<std::pair<std::string, std::string>>{
           {"dram", ""}, {"mapped", ""}, {"pagecache", ""}, {"nvme", "&direct=0"}, {"nvme", "&direct=0&cache=1MiB"}}) {
    SCOPED_TRACE(tier + more);
    const OpenTable table = value_or_throw(open(tier, {fact}, more));
    for (size_t at = 0; at < info_.tables.size(); ++at)
      expect_rows(*table.stores[at], at,
                  [&](int64_t id) { return at == 0 && (id == 0 || id == 31 || id == 1000) ? 7 : -1; });
    std::vector<std::byte> out(5 * 264);
    throw_if_error(table.stores[0]->read(std::vector<int64_t>{31, 5, 31, 0, 6}, out).wait());
    EXPECT_EQ(out[0], std::byte{7});
    EXPECT_EQ(out[2 * 264], std::byte{7});
    EXPECT_EQ(out[264], row_byte(1, 5, 0));
    EXPECT_EQ(table.stores[0]->read(std::vector<int64_t>{31}, out).wait().code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(table.stores[0]->read(std::vector<int64_t>{31, 2000}, std::span(out).first(528)).wait().code(),
              StatusCode::kOutOfRange);
  }
  EXPECT_EQ(contents_of("rows"), before);
}

TEST_F(OverlayTest, SizesAndPlacesAreShown) {
  const OpenTable table = value_or_throw(open("dram", {save(make("fact", 1, {3, 4}, 7))}));
  std::vector<uint8_t> tiers(3);
  table.stores[0]->locate(std::vector<int64_t>{2, 3, 4}, tiers);
  EXPECT_EQ(tiers, (std::vector<uint8_t>{1, 0, 0}));
  std::vector<std::byte> out(3 * 264);
  throw_if_error(table.stores[0]->read(std::vector<int64_t>{2, 3, 4}, out).wait());
  const StoreStats stats = table.stores[0]->stats();
  EXPECT_EQ(stats.tiers[0].name, "overlay");
  EXPECT_EQ(stats.tiers[0].hits, 2u);
  EXPECT_EQ(stats.tiers[0].misses, 1u);
  EXPECT_EQ(stats.tiers[0].resident_rows, 2u);
  EXPECT_EQ(stats.tiers[0].resident_bytes, 528u);
  EXPECT_EQ(stats.tiers[1].name, "dram");
}

TEST_F(OverlayTest, ValuesBecomeRowsOfTheTablesKind) {
  const RowFileReader reader = value_or_throw(RowFileReader::open(Env::posix(), path("rows")));
  Overlay overlay{path("values"), {}};
  std::vector<float> values(2 * 146);
  std::iota(values.begin(), values.end(), -50.0f);
  throw_if_error(add_values(reader, 5, {7, 99}, values, overlay));
  const OpenTable table = value_or_throw(open("dram", {save(overlay)}));
  std::vector<std::byte> out(2 * 584);
  throw_if_error(table.stores[1]->read(std::vector<int64_t>{7, 99}, out).wait());
  EXPECT_TRUE(std::ranges::equal(out, std::as_bytes(std::span(values))));  // fp32 as it is
  EXPECT_EQ(add_values(reader, 5, {99, 7}, values, overlay).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(add_values(reader, 5, {7}, values, overlay).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(add_values(reader, 5, {7, 100}, values, overlay).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(add_values(reader, 6, {7, 99}, values, overlay).code(), StatusCode::kNotFound);
}

TEST_F(OverlayTest, TwoComposeInTheirOrder) {
  const Overlay first = make("first", 1, {3, 4}, 7);
  const std::string a = save(first), beside = save(make("beside", 1, {4, 5}, 8));
  const std::string upon = save(make("upon", 1, {3}, 9, &first));
  expect_rows(*value_or_throw(open("dram", {a, beside})).stores[0], 0, [](int64_t id) {
    return id == 3 ? 7 : id == 4 || id == 5 ? 8 : -1;
  });
  expect_rows(*value_or_throw(open("dram", {beside, a})).stores[0], 0, [](int64_t id) {
    return id == 3 || id == 4 ? 7 : id == 5 ? 8 : -1;
  });
  expect_rows(*value_or_throw(open("dram", {a, upon})).stores[0], 0, [](int64_t id) {
    return id == 3 ? 9 : id == 4 ? 7 : -1;
  });
  expect_refusal(open("dram", {upon}).status(), StatusCode::kFailedPrecondition, "layer 1 row 3 replaces other bytes");
}

TEST_F(OverlayTest, AnOverlayOfAnotherTableIsRefused) {
  const std::string fact = save(make("fact", 1, {3}, 7));
  // The same header and other rows.
  auto writer = value_or_throw(RowFileWriter::create(Env::posix(), path("rows"), info_));
  for (const RowTable& table : info_.tables)
    throw_if_error(writer->append(std::vector<std::byte>(static_cast<size_t>(table.num_rows * table.row_bytes))));
  throw_if_error(writer->finish());
  expect_refusal(open("nvme", {fact}, "&direct=0").status(), StatusCode::kFailedPrecondition,
                 "an overlay for another table");
  throw_if_error(write_row_file(Env::posix(), path("rows"), test_row_file_info(2)));
  expect_refusal(open("dram", {fact}).status(), StatusCode::kFailedPrecondition, "another header");
}

TEST_F(OverlayTest, FilesThatAreNoOverlaysAreRefused) {
  const auto refuse = [&](const std::function<void(Overlay&)>& change, const std::string& part) {
    Overlay overlay = make("bad", 1, {3, 4}, 7);
    change(overlay);
    expect_refusal(open("dram", {save(overlay)}).status(), StatusCode::kDataLoss, part);
  };
  refuse([](Overlay& o) { o.layers[0].row_ids = {4, 3}; }, "row_ids[1] is 3, wanted 5 .. 1006");
  refuse([](Overlay& o) { o.layers[0].row_ids = {4, 4}; }, "row_ids[1] is 4");
  refuse([](Overlay& o) { o.layers[0].row_ids = {-1, 4}; }, "row_ids[0] is -1");
  refuse([](Overlay& o) { o.layers[0].row_ids = {4, 1007}; }, "row_ids[1] is 1007");
  const auto writer = value_or_throw(SafetensorsWriter::create(Env::posix(), path("plain"), {{"x", DType::kU8, {1}}}));
  throw_if_error(writer->append(std::vector<std::byte>(1)));
  throw_if_error(writer->finish());
  expect_refusal(open("dram", {path("plain")}).status(), StatusCode::kDataLoss, "so not an overlay");
  EXPECT_EQ(open("dram", {path("none")}).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(StoreUri::parse("dram:f?overlay=").status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(value_or_throw(StoreUri::parse("dram:f?overlay=a%26b&overlay=c")).overlays,
            (std::vector<std::string>{"a&b", "c"}));
}

}  // namespace
}  // namespace engram
