#include "engram/store/rowfile/row_file.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "engram/core/crc32c.h"
#include "tests/fault_env.h"
#include "tests/store/store_test.h"

namespace engram {
namespace {

class RowFileTest : public StoreTest {
 protected:
  // Writes bytes under a name and opens them: the message of the refusal, "" when there is none.
  std::string refusal(const std::string& bytes) {
    write("bad", bytes);
    const auto reader = RowFileReader::open(Env::posix(), path("bad"));
    if (reader.ok()) return "";
    EXPECT_EQ(reader.status().code(), StatusCode::kDataLoss);
    EXPECT_EQ(reader.status().message().find('\n'), std::string::npos);
    return reader.status().message();
  }
};

RowFileHash test_hash() {
  RowFileHash hash;
  hash.config.layer_ids = {1, 14};
  hash.config.max_ngram_size = 3;
  hash.config.n_heads = 2;
  hash.config.head_dim = 4;
  hash.config.vocab_size = {10, 20};
  hash.config.pad_token_id = 2;
  hash.config.compressed_vocab_size = 100;
  hash.compressed_pad_id = 2;
  hash.token_map_sha256 = TokenMap::identity(100).sha256();
  return hash;
}

// Built by hand from docs/formats/row_file.md, with a checksum written out bit by bit.
void seal_by_hand(std::string& file, size_t page) {
  char* bytes = file.data() + page * 4096;
  const auto number = static_cast<uint32_t>(page);
  std::memcpy(bytes + 4088, &number, 4);
  uint32_t crc = 0xFFFFFFFFu;
  for (size_t i = 0; i < 4092; ++i) {
    crc ^= static_cast<uint8_t>(bytes[i]);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78u : 0u);
  }
  crc = ~crc;
  std::memcpy(bytes + 4092, &crc, 4);
}

std::string image_by_hand(const std::string& json, const std::vector<std::string>& pages) {
  std::string file(4096 * (1 + pages.size()), '\0');
  const uint32_t version = 1, header_pages = 1, json_bytes = static_cast<uint32_t>(json.size());
  const uint64_t num_pages = 1 + pages.size();
  std::memcpy(file.data(), "ENGRROWS", 8);
  std::memcpy(file.data() + 8, &version, 4);
  std::memcpy(file.data() + 12, &header_pages, 4);
  std::memcpy(file.data() + 16, &num_pages, 8);
  std::memcpy(file.data() + 24, &json_bytes, 4);
  std::memcpy(file.data() + 64, json.data(), json.size());
  for (size_t i = 0; i < pages.size(); ++i) std::memcpy(file.data() + 4096 * (i + 1), pages[i].data(), pages[i].size());
  for (size_t i = 0; i <= pages.size(); ++i) seal_by_hand(file, i);
  return file;
}

const char* kJson =
    R"({"layers":[{"layer_id":3,"rows":5,"type":"bf16","width":1000,"block":0,"table_scale":1.0,"row_bytes":2000,)"
    R"("rows_per_page":2,"pages_per_row":1,"first_page":1}]})";

TEST_F(RowFileTest, BytesAreThoseOfTheDocument) {
  const RowFileInfo info =
      value_or_throw(RowFileInfo::create({make_table(3, 5, {RowType::kBF16, 1000})}, std::nullopt));
  throw_if_error(write_row_file(Env::posix(), path("t"), info));
  std::vector<std::string> pages(3);
  for (int64_t row = 0; row < 5; ++row) {
    for (int64_t i = 0; i < 2000; ++i) pages[static_cast<size_t>(row / 2)] += static_cast<char>(row_byte(3, row, i));
  }
  EXPECT_TRUE(contents_of("t") == image_by_hand(kJson, pages));
  EXPECT_EQ(files(), std::vector<std::string>{"t"});
}

TEST_F(RowFileTest, RowsReadBack) {
  const RowFileInfo info = test_row_file_info();
  throw_if_error(write_row_file(Env::posix(), path("t"), info));
  const RowFileReader reader = value_or_throw(RowFileReader::open(Env::posix(), path("t")));
  ASSERT_EQ(reader.info().tables.size(), 3u);
  EXPECT_EQ(reader.info().tables[0].rows_per_page, 15);
  EXPECT_EQ(reader.info().tables[1].rows_per_page, 7);
  EXPECT_EQ(reader.info().tables[2].rows_per_page, 0);
  EXPECT_EQ(reader.info().tables[2].pages_per_row, 3);
  for (int t = 0; t < 3; ++t) {
    const RowTable& table = reader.info().tables[static_cast<size_t>(t)];
    EXPECT_EQ(table.format, info.tables[static_cast<size_t>(t)].format);
    for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, table.num_rows}, {1, 2}, {table.num_rows, 0}}) {
      std::vector<std::byte> out(static_cast<size_t>(count * table.row_bytes));
      throw_if_error(reader.read_rows(t, first, count, out));
      EXPECT_TRUE(out == expected_rows(table, first, count)) << t << " " << first;
    }
    std::vector<std::byte> out(static_cast<size_t>(table.row_bytes));
    EXPECT_EQ(reader.read_rows(t, table.num_rows, 1, out).code(), StatusCode::kOutOfRange);
    EXPECT_EQ(reader.read_rows(t, -1, 1, out).code(), StatusCode::kOutOfRange);
    EXPECT_EQ(reader.read_rows(t, 0, 2, out).code(), StatusCode::kInvalidArgument);
  }
}

TEST_F(RowFileTest, LongHeaderTakesPages) {
  std::vector<RowTable> tables;
  for (int i = 0; i < 100; ++i) tables.push_back(make_table(i, 3, {RowType::kFP32, 4}));
  const RowFileInfo info = value_or_throw(RowFileInfo::create(tables, std::nullopt));
  EXPECT_GT(info.header_pages, 3);
  throw_if_error(write_row_file(Env::posix(), path("t"), info));
  const RowFileReader reader = value_or_throw(RowFileReader::open(Env::posix(), path("t")));
  EXPECT_EQ(reader.info().tables.size(), 100u);
  std::string damaged = contents_of("t");
  damaged[4096 * 2 + 17] ^= 4;
  EXPECT_NE(refusal(damaged).find("page 2 is damaged"), std::string::npos);
}

TEST_F(RowFileTest, HashLayoutIsKept) {
  const RowFileHash hash = test_hash();
  const EngramLayout layout = value_or_throw(EngramLayout::create(hash.config, 2));
  const RowFileInfo info =
      value_or_throw(RowFileInfo::create({make_table(14, layout.num_rows(1), {RowType::kFP32, 4})}, hash));
  throw_if_error(write_row_file(Env::posix(), path("t"), info));
  const RowFileReader reader = value_or_throw(RowFileReader::open(Env::posix(), path("t")));
  const EngramLayout read = value_or_throw(reader.info().layout());
  EXPECT_TRUE(std::ranges::equal(read.primes(1), layout.primes(1)));
  EXPECT_TRUE(std::ranges::equal(read.multipliers(1), layout.multipliers(1)));
  throw_if_error(reader.info().check_token_map(TokenMap::identity(100)));
  EXPECT_EQ(reader.info().check_token_map(TokenMap::identity(99)).code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(value_or_throw(reader.info().find_layer(14)), 0);
  EXPECT_EQ(reader.info().find_layer(1).status().message(), "layer 1 is not in the file, which has 14");

  const RowFileInfo taller =
      value_or_throw(RowFileInfo::create({make_table(14, layout.num_rows(1) + 1, {RowType::kFP32, 4})}, hash));
  EXPECT_EQ(taller.layout().status().code(), StatusCode::kDataLoss);
  EXPECT_EQ(test_row_file_info().layout().status().code(), StatusCode::kFailedPrecondition);
}

TEST_F(RowFileTest, CreateRefusesBadTables) {
  const RowFormat format{RowType::kFP32, 4};
  const auto code = [](std::vector<RowTable> tables, std::optional<RowFileHash> hash = std::nullopt) {
    return RowFileInfo::create(std::move(tables), std::move(hash)).status().code();
  };
  EXPECT_EQ(code({}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({make_table(1, 0, format)}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({make_table(1, kMaxRowsPerTable + 1, format)}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({make_table(-1, 1, format)}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({make_table(1, 1, format), make_table(1, 1, format)}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({make_table(1, 1, {RowType::kFP32, 0})}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({make_table(1, 200, format)}, test_hash()), StatusCode::kOk);
  EXPECT_EQ(code({make_table(2, 200, format)}, test_hash()), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({make_table(1, 200, {RowType::kFP32, 5})}, test_hash()), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({make_table(1, 30, format)}, test_hash()), StatusCode::kInvalidArgument);
  // Tables that no 63-bit count of bytes could hold.
  std::vector<RowTable> huge;
  for (int i = 0; i < 8; ++i) huge.push_back(make_table(i, kMaxRowsPerTable, {RowType::kFP32, kMaxRowWidth}));
  EXPECT_EQ(code(huge), StatusCode::kInvalidArgument);
}

TEST_F(RowFileTest, HostileHeadersAreRefused) {
  const std::vector<std::string> pages(3);
  const std::string good = image_by_hand(kJson, pages);
  ASSERT_EQ(refusal(good), "");
  const auto has = [&](const std::string& bytes, const std::string& reason) {
    EXPECT_NE(refusal(bytes).find(reason), std::string::npos) << refusal(bytes) << "\nwanted " << reason;
  };
  const auto put = [&](size_t at, auto value) {
    std::string bytes = good;
    std::memcpy(bytes.data() + at, &value, sizeof value);
    seal_by_hand(bytes, 0);
    return bytes;
  };
  has("", "not a row file");
  has(good.substr(0, 4095), "not a row file");
  has(good.substr(0, 8192), "file has 8192 bytes, wanted 4 pages");
  has(good + "x", "file has 16385 bytes, wanted 4 pages");
  has(good + std::string(4096, '\0'), "file has 20480 bytes, wanted 4 pages");
  has(put(0, 'X'), "not a row file");
  has(put(8, uint32_t{2}), "version is 2, wanted 1");
  has(put(12, uint32_t{0}), "a header of 0 pages");
  has(put(12, uint32_t{257}), "a header of 257 pages");
  has(put(12, uint32_t{5}), "5 header pages in a file of 4");
  has(put(16, uint64_t{1} << 63), "bytes, wanted 9223372036854775808 pages");
  has(put(24, uint32_t{4025}), "4025 bytes of JSON");
  has(put(24, uint32_t{3}), "bad header");
  has(put(40, uint8_t{1}), "bytes are not the ones");
  has(put(4000, uint8_t{1}), "bytes are not the ones");
  std::string flipped = good;
  flipped[100] ^= 1;
  has(flipped, "page 0 is damaged");

  const auto with = [&](const std::string& from, const std::string& to) {
    std::string json = kJson;
    const size_t at = json.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return image_by_hand(json.replace(at, from.size(), to), pages);
  };
  has(with("\"rows\":5", "\"rows\":7"), "file has 4 pages, wanted 5");
  has(with("\"rows\":5", "\"rows\":0"), "rows");
  has(with("\"rows\":5", "\"rows\":18446744073709551615"), "rows");
  has(with("\"rows\":5", "\"rows\":281474976710657"), "rows");
  has(with("\"first_page\":1", "\"first_page\":2"), "first_page is '2', wanted 1");
  has(with("\"row_bytes\":2000", "\"row_bytes\":1"), "row_bytes is '1', wanted 2000");
  has(with(",\"first_page\":1", ""), "first_page is 'null'");
  has(with("bf16", "bf17"), "bf17");
  has(with("\"table_scale\":1.0", "\"table_scale\":1e300"), "table_scale");
  has(with("\"layer_id\":3", "\"layer_id\":-3"), "layer_id");
  has(with("\"block\":0", "\"blocks\":0"), "layers[0].block: missing");
  has(with("{\"layers\"", "{\"x\":1,\"layers\""), "unknown key 'x'");
  has(with("{\"layers\":", "{\"layers\":[],\"layers\":"), "bad header");
  has(with("}]}", "}],\"hash\":3}"), "hash");
  has(with("\"layer_id\":3", "\"layer_id\": 3"), "bytes are not the ones");
}

TEST_F(RowFileTest, DamagedPagesAreNamed) {
  const RowFileInfo info = test_row_file_info();
  throw_if_error(write_row_file(Env::posix(), path("t"), info));
  const std::string good = contents_of("t");
  const RowTable& table = info.tables[0];
  std::vector<std::byte> out(static_cast<size_t>(table.num_rows * table.row_bytes));
  const auto read = [&](const std::string& bytes) {
    write("t", bytes);
    return value_or_throw(RowFileReader::open(Env::posix(), path("t"))).read_rows(0, 0, table.num_rows, out);
  };
  // Payload, padding, page number and checksum are all covered.
  for (size_t at : {size_t{0}, size_t{3960}, size_t{4087}, size_t{4088}, size_t{4095}}) {
    std::string bad = good;
    bad[9 * 4096 + at] ^= 0x10;
    const Status status = read(bad);
    EXPECT_EQ(status.code(), StatusCode::kDataLoss);
    EXPECT_NE(status.message().find(path("t") + ": page 9 is damaged"), std::string::npos) << status.message();
  }
  std::string swapped = good;
  std::swap_ranges(swapped.begin() + 9 * 4096, swapped.begin() + 10 * 4096, swapped.begin() + 20 * 4096);
  EXPECT_NE(read(swapped).message().find("page 9 holds page 20"), std::string::npos);
}

TEST_F(RowFileTest, FailedReadsAreRepeatedOnce) {
  const RowFileInfo info = test_row_file_info();
  throw_if_error(write_row_file(Env::posix(), path("t"), info));
  const RowTable& table = info.tables[0];
  std::vector<std::byte> out(static_cast<size_t>(table.num_rows * table.row_bytes));
  const auto read = [&](FaultPlan plan) {
    FaultyEnv env(Env::posix(), plan);
    auto reader = value_or_throw(RowFileReader::open(env, path("t")));
    std::ranges::fill(out, std::byte{0});
    return reader.read_rows(0, 0, table.num_rows, out);
  };
  const int64_t bit = (4 * 4096 + 77) * 8 + 3;
  throw_if_error(read({.flip_bit = bit, .heal_reads = true}));
  EXPECT_TRUE(out == expected_rows(table, 0, table.num_rows));
  EXPECT_EQ(read({.flip_bit = bit}).code(), StatusCode::kDataLoss);
  throw_if_error(read({.fail_read = 2}));  // 0 and 1 are the header's
  EXPECT_TRUE(out == expected_rows(table, 0, table.num_rows));
}

TEST_F(RowFileTest, ShrunkFileIsAnError) {
  const RowFileInfo info = test_row_file_info();
  throw_if_error(write_row_file(Env::posix(), path("t"), info));
  const auto reader = value_or_throw(RowFileReader::open(Env::posix(), path("t")));
  throw_if_error(Env::posix().truncate_file(path("t"), 5 * 4096 + 100));
  std::vector<std::byte> out(static_cast<size_t>(info.tables[0].num_rows * info.tables[0].row_bytes));
  const Status status = reader.read_rows(0, 0, info.tables[0].num_rows, out);
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_NE(status.message().find("shrank"), std::string::npos) << status.message();
}

TEST_F(RowFileTest, WriterRefusesBadRows) {
  const RowFileInfo info = test_row_file_info();
  auto writer = value_or_throw(RowFileWriter::create(Env::posix(), path("t"), info));
  const std::vector<std::byte> bytes(264 * 1008);
  EXPECT_EQ(writer->append(std::span(bytes).first(263)).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(writer->append(bytes).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(writer->next_row(), 0);
  EXPECT_EQ(writer->finish().code(), StatusCode::kFailedPrecondition);
  throw_if_error(append_rest(*writer, info));
  EXPECT_EQ(writer->append(std::span(bytes).first(264)).code(), StatusCode::kInvalidArgument);
  throw_if_error(writer->finish());
  EXPECT_EQ(writer->finish().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(writer->append(std::span(bytes).first(264)).code(), StatusCode::kFailedPrecondition);
}

// Whatever fails, the name holds the old file or the new one, and a second run with `resume` ends with the new one.
TEST_F(RowFileTest, EveryFaultCanBeResumed) {
  const RowFileInfo info = test_row_file_info(4);
  throw_if_error(write_row_file(Env::posix(), path("wanted"), info));
  const std::string wanted = contents_of("wanted");
  FaultyEnv counting(Env::posix());
  throw_if_error(write_row_file(counting, path("t"), info));
  ASSERT_GT(counting.changes(), 6);
  for (int64_t n = 0; n < counting.changes(); ++n) {
    write("t", "old");
    FaultyEnv env(Env::posix(), {.fail_change = n, .short_write = true, .dead_after = true});
    EXPECT_FALSE(write_row_file(env, path("t"), info).ok()) << n;
    EXPECT_TRUE(contents_of("t") == "old" || contents_of("t") == wanted) << n;
    auto writer = value_or_throw(RowFileWriter::create(Env::posix(), path("t"), info, true));
    throw_if_error(append_rest(*writer, info));
    throw_if_error(writer->finish());
    EXPECT_TRUE(contents_of("t") == wanted) << n;
    EXPECT_EQ(files(), (std::vector<std::string>{"t", "wanted"})) << n;
  }
}

TEST_F(RowFileTest, FullDiskIsReportedAndResumed) {
  const RowFileInfo info = test_row_file_info(20);
  throw_if_error(write_row_file(Env::posix(), path("wanted"), info));
  FaultyEnv env(Env::posix(), {.disk_bytes = (3 << 20) + 1000});
  const Status status = write_row_file(env, path("t"), info);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("No space left"), std::string::npos);
  EXPECT_FALSE(Env::posix().file_exists(path("t")));
  auto writer = value_or_throw(RowFileWriter::create(Env::posix(), path("t"), info, true));
  EXPECT_GT(writer->next_row(), 10000);  // what fitted was kept
  throw_if_error(append_rest(*writer, info));
  throw_if_error(writer->finish());
  EXPECT_TRUE(contents_of("t") == contents_of("wanted"));
}

// A power cut may leave zeros or old blocks behind the last synced page: nothing behind the first bad page is kept.
TEST_F(RowFileTest, ResumeKeepsOnlyGoodPages) {
  const RowFileInfo info = test_row_file_info(4);
  throw_if_error(write_row_file(Env::posix(), path("wanted"), info));
  const std::string wanted = contents_of("wanted");
  const RowTable& tall = info.tables[2];
  const auto pages = static_cast<size_t>(info.num_pages);
  for (const auto& [torn, table, row] : {std::tuple<size_t, int, int64_t>{0, 0, 0},
                                         {1, 0, 0},
                                         {2, 0, 15},
                                         {30, 0, 29 * 15},
                                         {static_cast<size_t>(tall.first_page) + 4, 2, 1},
                                         {pages - 1, 2, tall.num_rows - 1}}) {
    std::string partial = wanted;
    std::fill_n(partial.begin() + static_cast<long>(torn) * 4096, 4096, '\0');
    write("t.partial", partial);
    auto writer = value_or_throw(RowFileWriter::create(Env::posix(), path("t"), info, true));
    EXPECT_EQ(writer->next_table(), table) << torn;
    EXPECT_EQ(writer->next_row(), row) << torn;
    throw_if_error(append_rest(*writer, info));
    throw_if_error(writer->finish());
    EXPECT_TRUE(contents_of("t") == wanted) << torn;
  }
  // Another table's partial file is not continued.
  write("t.partial", wanted);
  auto other = value_or_throw(RowFileWriter::create(Env::posix(), path("t"), test_row_file_info(5), true));
  EXPECT_EQ(other->next_row(), 0);
}

}  // namespace
}  // namespace engram
