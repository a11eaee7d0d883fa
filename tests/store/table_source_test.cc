// Importers against files that Python wrote (tests/golden/make/table_sources.py), and what they refuse.
#include "engram/store/import/table_source.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engram/core/sha256.h"
#include "engram/formats/ggml_rows.h"
#include "engram/formats/safetensors.h"
#include "engram/kernels/row_codec.h"
#include "engram/store/import/import.h"
#include "engram/store/import/table_tools.h"
#include "engram/store/tiers/dram_store.h"
#include "tests/fault_env.h"

namespace engram {
namespace {

namespace fs = std::filesystem;

const std::string kTables = ENGRAM_SOURCE_DIR "/tests/parity/tables";

nlohmann::json expected() { return nlohmann::json::parse(std::ifstream(kTables + "/expected.json")); }

std::vector<float> all_values(const TableSource& source, int table) {
  const SourceTable& info = source.tables()[static_cast<size_t>(table)];
  std::vector<std::byte> rows(static_cast<size_t>(info.num_rows * info.format.row_bytes()));
  throw_if_error(source.read_rows(table, 0, info.num_rows, rows));
  std::vector<float> values(static_cast<size_t>(info.num_rows * info.format.width));
  decode_rows(info.format, rows.data(), static_cast<size_t>(info.format.row_bytes()), info.num_rows, values.data());
  return values;
}

std::string digest(const std::vector<float>& values) {
  return sha256_hex({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
}

// A folder of the test's own, gone afterwards.
class TableSources : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) /
              (std::string("table_sources_") + testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string copy(const std::string& name) {
    const fs::path to = folder_ / name;
    fs::remove_all(to);
    fs::copy(kTables + "/" + name, to, fs::copy_options::recursive);
    return to.string();
  }
  // Opens a copy of `name` in which `change` has edited one JSON file.
  Status open_changed(const std::string& name, const std::string& file,
                      const std::function<void(nlohmann::json&)>& change) {
    const std::string path = copy(name);
    nlohmann::json json = nlohmann::json::parse(std::ifstream(path + "/" + file));
    change(json);
    std::ofstream(path + "/" + file) << json.dump();
    return open_table_source(Env::posix(), path).status();
  }
  static void expect_refusal(const Status& status, const std::string& part) {
    EXPECT_FALSE(status.ok()) << "wanted a refusal with: " << part;
    EXPECT_NE(std::string::npos, status.message().find(part)) << status.message();
    EXPECT_EQ(std::string::npos, status.message().find('\n')) << status.message();
  }
  fs::path folder_;
};

TEST_F(TableSources, EveryRowOfEverySourceEqualsTheOracles) {
  const nlohmann::json wanted = expected();
  for (const auto& [name, layers] : wanted["sources"].items()) {
    SCOPED_TRACE(name);
    const auto source = value_or_throw(open_table_source(Env::posix(), kTables + "/" + name));
    ASSERT_EQ(layers.size(), source->tables().size());
    for (const auto& [layer, facts] : layers.items()) {
      const int table = value_or_throw(source->find_layer(std::stoi(layer)));
      const SourceTable& info = source->tables()[static_cast<size_t>(table)];
      EXPECT_EQ(facts["rows"], info.num_rows);
      EXPECT_EQ(facts["width"], info.format.width);
      EXPECT_EQ(facts["sha256"], digest(all_values(*source, table))) << "layer " << layer << " " << info.encoding;
    }
    if (name.starts_with("ple") || name.starts_with("qwen")) {
      EXPECT_FALSE(source->hash());
      EXPECT_FALSE(source->hash_note().empty());
      continue;
    }
    ASSERT_TRUE(source->hash());
    EXPECT_EQ(wanted["hash"]["token_map_sha256"], source->hash()->token_map_sha256);
    EXPECT_EQ(wanted["hash"]["compressed_vocab_size"], source->hash()->config.compressed_vocab_size);
    const EngramLayout layout =
        value_or_throw(EngramLayout::create(source->hash()->config, source->hash()->compressed_pad_id));
    std::vector<int64_t> primes, multipliers, offsets;
    for (int i = 0; i < layout.num_layers(); ++i) {
      primes.insert(primes.end(), layout.primes(i).begin(), layout.primes(i).end());
      offsets.insert(offsets.end(), layout.offsets(i).begin(), layout.offsets(i).end());
      multipliers.insert(multipliers.end(), layout.multipliers(i).begin(), layout.multipliers(i).end());
    }
    EXPECT_EQ(wanted["hash"]["primes"], nlohmann::json(primes));
    EXPECT_EQ(wanted["hash"]["offsets"], nlohmann::json(offsets));
    EXPECT_EQ(wanted["hash"]["multipliers"], nlohmann::json(multipliers));
  }
}

TEST_F(TableSources, StoredFormatsLoseNothing) {
  const auto format = [](const std::string& name, size_t table) {
    return value_or_throw(open_table_source(Env::posix(), kTables + "/" + name))->tables()[table].format;
  };
  EXPECT_EQ((RowFormat{RowType::kFP8, 256, 32}), format("deepseek_v41", 0));
  EXPECT_EQ((RowFormat{RowType::kFP8, 256, 32}), format("ds4_row264.gguf", 1));
  EXPECT_EQ((RowFormat{RowType::kFP8, 160, 0, 0.000199f}), format("ple_fp8", 0));
  EXPECT_EQ((RowFormat{RowType::kBF16, 160}), format("ple_bf16", 0));
  EXPECT_EQ((RowFormat{RowType::kInt8, 256, 32}), format("llama_q8_0_q4_k.gguf", 0));
  EXPECT_EQ((RowFormat{RowType::kFP32, 256}), format("llama_q8_0_q4_k.gguf", 1));
  EXPECT_EQ((RowFormat{RowType::kFP32, 24}), format("checkpoint", 0));
  EXPECT_EQ((RowFormat{RowType::kBF16, 24}), format("checkpoint", 1));
}

TEST_F(TableSources, ReadsCheckTheirArguments) {
  const auto source = value_or_throw(open_table_source(Env::posix(), kTables + "/checkpoint"));
  std::vector<std::byte> row(96);
  std::vector<float> values(24);
  EXPECT_TRUE(source->read_rows(0, 59, 1, row).ok());
  EXPECT_EQ(StatusCode::kOutOfRange, source->read_rows(0, 60, 1, row).code());
  EXPECT_EQ(StatusCode::kOutOfRange, source->read_rows(0, -1, 1, row).code());
  EXPECT_EQ(StatusCode::kInvalidArgument, source->read_rows(0, 0, 2, row).code());
  EXPECT_EQ(StatusCode::kInvalidArgument, source->read_rows(2, 0, 1, row).code());
  const std::vector<int64_t> past = {60};
  expect_refusal(source->read_values(0, past, values), "row id is 60, wanted 0 .. 59");
  expect_refusal(source->find_layer(2).status(), "no table of layer 2, there are 1, 14");
}

// Ids that follow each other are read together: the values are those of one row at a time, in the order asked for.
TEST_F(TableSources, RunsOfIdsGiveTheValuesOfSingleRows) {
  for (const char* name : {"checkpoint", "ple_fp8", "deepseek_v41", "llama_q8_0_q4_k.gguf"}) {
    const auto source = value_or_throw(open_table_source(Env::posix(), kTables + "/" + name));
    const SourceTable& table = source->tables()[0];
    const auto width = static_cast<size_t>(table.format.width);
    const int64_t last = table.num_rows - 1;
    const std::vector<int64_t> ids = {2, 3, 4, 3, 4, 4, last - 1, last, 0, 1};
    std::vector<float> values(ids.size() * width), one(width);
    throw_if_error(source->read_values(0, ids, values));
    for (size_t i = 0; i < ids.size(); ++i) {
      throw_if_error(source->read_values(0, std::span(&ids[i], 1), one));
      EXPECT_TRUE(std::equal(one.begin(), one.end(), values.begin() + static_cast<std::ptrdiff_t>(i * width)))
          << name << ", row " << ids[i];
    }
  }
}

TEST_F(TableSources, FoldersThatAreNoModels) {
  expect_refusal(open_table_source(Env::posix(), folder_.string()).status(), "no config.json");
  expect_refusal(open_table_source(Env::posix(), (folder_ / "none").string()).status(), "No such file");
  expect_refusal(open_table_source(Env::posix(), kTables + "/checkpoint/engram.safetensors").status(),
                 "give the folder");
  expect_refusal(open_table_source(Env::posix(), kTables + "/expected.json").status(), "not a row file");
  std::ofstream(folder_ / "config.json") << R"({"model_type": "llama"})";
  expect_refusal(open_table_source(Env::posix(), folder_.string()).status(), "model_type is 'llama'");
}

TEST_F(TableSources, DeepSeekFlatConfigAndPlainFolder) {
  const std::string path = copy("deepseek_v41");
  fs::remove(path + "/config.json");
  fs::remove(path + "/model.safetensors.index.json");
  const auto source = value_or_throw(open_table_source(Env::posix(), path));
  EXPECT_EQ(expected()["sources"]["deepseek_v41"]["14"]["sha256"], digest(all_values(*source, 1)));
  fs::remove(path + "/tokenizer.json");
  const auto bare = value_or_throw(open_table_source(Env::posix(), path));
  EXPECT_FALSE(bare->hash());
  const auto named = value_or_throw(open_table_source(Env::posix(), path, kTables + "/deepseek_v41/tokenizer.json"));
  EXPECT_TRUE(named->hash());
  fs::copy(path + "/model-00001-of-00002.safetensors", path + "/again.safetensors");
  expect_refusal(open_table_source(Env::posix(), path).status(), "is also in");
}

TEST_F(TableSources, DeepSeekRefusals) {
  const auto change = [&](const char* key, const nlohmann::json& value) {
    return open_changed("deepseek_v41", "config.json", [&](nlohmann::json& json) { json["text_config"][key] = value; });
  };
  expect_refusal(change("engram_num_embeddings", {60, 121}), "layer 14 has 121 rows, wanted 120, the sum of its 4");
  expect_refusal(change("engram_num_embeddings", {60}), "1 entries for 2 layers");
  expect_refusal(change("engram_vocab_size", 12), "layer 1 has 60 rows");
  expect_refusal(change("engram_compressed_vocab_size", 231), "compressed_vocab_size is 231");
  expect_refusal(change("engram_pad_id", 3), "engram_pad_token_id is 2 and engram_pad_id is 3");
  expect_refusal(change("engram_head_dim", 40), "wanted a multiple of 32");
  expect_refusal(change("engram_head_dim", 128), "got shape [60, 256], wanted [60, 128]");
  expect_refusal(change("engram_n_heads", "two"), "engram_n_heads");
  expect_refusal(change("engram_layer_ids", {1, 13}), "no tensor layers.13.engram.embed.weight");
  expect_refusal(open_changed("deepseek_v41", "model.safetensors.index.json",
                              [](nlohmann::json& json) {
                                json["weight_map"]["layers.1.engram.embed.scale"] = "../x.safetensors";
                              }),
                 "wanted a file name");
}

// The 32 x 32 tiles that the checkpoint's other fp8 tensors have must not pass for scales per row.
TEST_F(TableSources, DeepSeekTiledScalesAreRefused) {
  const std::string path = copy("deepseek_v41");
  const std::string shard = path + "/model-00001-of-00002.safetensors";
  {
    const auto old = value_or_throw(
        SafetensorsFile::open(Env::posix(), kTables + "/deepseek_v41/" + fs::path(shard).filename().string()));
    const TensorView codes = value_or_throw(old.find("layers.1.engram.embed.weight"));
    const std::vector<std::byte> tiles(2 * 8);
    auto writer =
        value_or_throw(SafetensorsWriter::create(Env::posix(), shard,
                                                 {{"layers.1.engram.embed.scale", DType::kF8E8M0, {2, 8}},
                                                  {"layers.1.engram.embed.weight", codes.dtype, codes.shape}}));
    throw_if_error(writer->append(tiles));
    throw_if_error(writer->append(codes.bytes));
    throw_if_error(writer->finish());
  }
  expect_refusal(open_table_source(Env::posix(), path).status(), "got shape [2, 8], wanted [60, 8]");
}

TEST_F(TableSources, PleRefusals) {
  const auto change = [&](const char* name, const char* key, const nlohmann::json& value) {
    return open_changed(name, "config.json", [&](nlohmann::json& json) { json["text_config"][key] = value; });
  };
  expect_refusal(change("ple_bf16", "seed", 1), "layer_multipliers");
  expect_refusal(change("ple_bf16", "vocab_size", 301), "layer_multipliers");
  expect_refusal(change("ple_bf16", "ngram_vocab_size_base", 24), "ngram_heads_vocab_sizes");
  expect_refusal(change("ple_bf16", "make_ngram_vocab_size_divisible_by", 100), "wanted [");
  expect_refusal(change("ple_bf16", "split_ngram_parts", 5), "do not split into 5 shards");
  expect_refusal(change("ple_fp8", "split_ngram_parts", 8), "wanted [");
  expect_refusal(change("ple_bf16", "ple_layer_ids", {0}), "wanted ids from 1");
  expect_refusal(change("ple_bf16", "ple_layer_ids", {3}), "no tensor layers.2.");
  expect_refusal(change("ple_bf16", "ple_embed_dim", 641), "wanted a multiple of the 4 heads");
}

TEST_F(TableSources, CheckpointRefusals) {
  const auto change = [&](const char* key, const nlohmann::json& value) {
    return open_changed("checkpoint", "config.json", [&](nlohmann::json& json) { json["engram"][key] = value; });
  };
  expect_refusal(change("vocab_size", {11, 20}), "layer 1 has 60 rows");
  expect_refusal(change("compressed_vocab_size", 100), "compressed_vocab_size is 100");
  expect_refusal(change("compression", false), "compressed_vocab_size is");
  expect_refusal(change("pad_token_id", 5000), "pad_token_id: got 5000, wanted 0 .. ");
  expect_refusal(change("head_dim", 23), "got shape [60, 24], wanted [60, 23]");
  expect_refusal(
      open_changed("checkpoint", "config.json", [](nlohmann::json& json) { json["memory"] = "over_encoding"; }),
      "over_encoding");
}

// One byte of a GGUF file's constants changed, wherever its old value stands.
TEST_F(TableSources, GgufConstantsAreCompared) {
  const auto patch = [&](const std::string& name, const std::string& key, size_t skip, char value) {
    const std::string path = copy(name);
    std::ifstream in(path, std::ios::binary);
    std::string bytes((std::istreambuf_iterator<char>(in)), {});
    const size_t at = bytes.find(key);
    EXPECT_NE(std::string::npos, at);
    bytes[at + key.size() + skip] = value;
    std::ofstream(path, std::ios::binary) << bytes;
    return open_table_source(Env::posix(), path).status();
  };
  // Behind a key: u32 type 9, u32 element type, u64 count, then the elements.
  constexpr size_t kFirst = 16;
  const std::string llama = "llama_q8_0_q4_k.gguf", ds4 = "ds4_row264.gguf";
  expect_refusal(patch(llama, "engram.primes", kFirst + 8, 14), "primes holds 14 at 1, wanted 13");
  expect_refusal(patch(llama, "engram.offsets", kFirst + 16, 25), "offsets holds 25 at 2, wanted 24");
  expect_refusal(patch(llama, "engram.multipliers", kFirst, 1), "multipliers holds");
  expect_refusal(patch(llama, "engram.token_map", kFirst, 1), "not a map in first-seen order");
  expect_refusal(patch(llama, "engram.head_count", 4, 3), "head_count holds 3 at 0, wanted 2");
  expect_refusal(patch(llama, "engram.key_length", 4, 1), "key_length");
  expect_refusal(patch(llama, "engram.layer_ids", kFirst, 2), "multipliers holds");
  expect_refusal(patch(llama, "engram.prime", 0, 'x'), "no key deepseek41.engram.primes");
  expect_refusal(patch(ds4, "engram.rows", kFirst, 61), "rows holds 61 at 0, wanted 60");
  expect_refusal(patch(ds4, "engram.compressed_vocab_size", 4, 7), "canonical ids");
  expect_refusal(patch(ds4, "e4m3_e8m0_32_ro", 0, 'x'), "encoding is 'e4m3_e8m0_32_rox264'");
  expect_refusal(patch("qwen4exp_q8_0.gguf", "ple.head_offsets", kFirst + 8, 1), "head_offsets holds 1 at 1");
  expect_refusal(patch("qwen4exp_q8_0.gguf", "ple.head_vocab_sizes", kFirst + 8 * 3, 90), "rows, wanted");
}

TEST_F(TableSources, GgufCutAnywhereIsRefused) {
  for (const std::string name : {"ds4_row136.gguf", "ds4_external.gguf"}) {
    std::ifstream in(kTables + "/" + name, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(in)), {});
    const std::string path = (folder_ / name).string();
    for (size_t size = 0; size < bytes.size(); size += size < 2048 ? 7 : 1009) {
      std::ofstream(path, std::ios::binary) << bytes.substr(0, size);
      const Status status = open_table_source(Env::posix(), path).status();
      EXPECT_FALSE(status.ok()) << size << " of " << bytes.size() << " bytes pass";
      EXPECT_EQ(std::string::npos, status.message().find('\n'));
    }
  }
}

TEST_F(TableSources, GgufSidecars) {
  const std::string path = copy("ds4_external.gguf");
  expect_refusal(open_table_source(Env::posix(), path).status(), "ds4_external.gguf.rows");
  const std::string rows = copy("ds4_external.gguf.rows");
  EXPECT_TRUE(open_table_source(Env::posix(), path).ok());
  fs::resize_file(rows, fs::file_size(rows) - 1);
  expect_refusal(open_table_source(Env::posix(), path).status(), "120 rows of 144 bytes");
}

TEST(GgmlRows, HalfPrecision) {
  EXPECT_EQ(1.0f, widen_fp16(0x3C00));
  EXPECT_EQ(-2.0f, widen_fp16(0xC000));
  EXPECT_EQ(0x1p-24f, widen_fp16(1));
  EXPECT_EQ(65504.0f, widen_fp16(0x7BFF));
  EXPECT_TRUE(std::isinf(widen_fp16(0x7C00)));
  EXPECT_TRUE(std::isnan(widen_fp16(0x7E00)));
  EXPECT_EQ(nullptr, find_ggml_type(kGgmlI8));
}

TEST_F(TableSources, ConvertedTablesHoldTheSameRows) {
  const nlohmann::json wanted = expected();
  int converted = 0;
  for (const auto& [name, layers] : wanted["sources"].items()) {
    SCOPED_TRACE(name);
    const auto source = value_or_throw(open_table_source(Env::posix(), kTables + "/" + name));
    const std::string path = (folder_ / "table.rows").string();
    const RowFileInfo info = value_or_throw(plan_convert(*source, std::nullopt));
    ASSERT_TRUE(convert_table(Env::posix(), *source, path, info, false, nullptr).ok());
    const auto again = value_or_throw(open_table_source(Env::posix(), path));
    EXPECT_EQ("row file", again->kind());
    EXPECT_EQ(source->hash().has_value(), again->hash().has_value());
    for (int table = 0; table < static_cast<int>(layers.size()); ++table) {
      const std::string layer = std::to_string(again->tables()[static_cast<size_t>(table)].layer_id);
      EXPECT_EQ(layers[layer]["sha256"], digest(all_values(*again, table)));
    }
    EXPECT_EQ(0, value_or_throw(verify_row_file(Env::posix(), path, nullptr)).damaged_pages);
    fs::remove(path);
    ++converted;
  }
  EXPECT_EQ(13, converted);
}

TEST_F(TableSources, ConvertedTypesAreClose) {
  const auto source = value_or_throw(open_table_source(Env::posix(), kTables + "/checkpoint"));
  const std::vector<float> wanted = all_values(*source, 0);
  for (const auto& [type, bound] : {std::pair{RowType::kFP32, 0.0f},
                                    {RowType::kBF16, 0.02f},
                                    {RowType::kFP8, 0.3f},
                                    {RowType::kInt8, 0.02f},
                                    {RowType::kInt4, 0.4f}}) {
    const std::string path = (folder_ / row_type_name(type)).string();
    const RowFileInfo info = value_or_throw(plan_convert(*source, type));
    ASSERT_TRUE(convert_table(Env::posix(), *source, path, info, false, nullptr).ok());
    const auto converted = value_or_throw(open_table_source(Env::posix(), path));
    EXPECT_EQ(type, converted->tables()[0].format.type);
    const std::vector<float> got = all_values(*converted, 0);
    ASSERT_EQ(wanted.size(), got.size());
    for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(wanted[i], got[i], bound) << row_type_name(type);
  }
}

TEST_F(TableSources, SyntheticTablesFitTheirSize) {
  const std::string path = (folder_ / "synthetic.rows").string();
  for (const RowType type : {RowType::kFP8, RowType::kInt4}) {
    SyntheticOptions options;
    options.type = type;
    const RowFileInfo info = value_or_throw(plan_synthetic(options, 4 << 20, TokenMap::identity(1000)));
    ASSERT_TRUE(write_synthetic(Env::posix(), path, info, 3, false, nullptr).ok());
    EXPECT_LE(fs::file_size(path), 4u << 20);
    EXPECT_GE(fs::file_size(path), (4u << 20) - (300 << 10));
    const auto source = value_or_throw(open_table_source(Env::posix(), path));
    EXPECT_EQ(24, source->hash()->config.rows_per_token());
    EXPECT_TRUE(verify_values(*source, nullptr).ok());
    const std::vector<float> values = all_values(*source, 0);
    EXPECT_FALSE(std::equal(values.begin(), values.begin() + 256, values.begin() + 256)) << "two rows are alike";
  }
  EXPECT_FALSE(plan_synthetic({}, 1000, TokenMap::identity(1000)).ok());
}

// The rows of a table that is in no file are those of the file, and a row that cannot be made ends the store.
TEST_F(TableSources, SyntheticRowsInMemoryAreTheFiles) {
  const std::string path = (folder_ / "synthetic.rows").string();
  const RowFileInfo info = value_or_throw(plan_synthetic({}, 2 << 20, TokenMap::identity(1000)));
  ASSERT_TRUE(write_synthetic(Env::posix(), path, info, 3, false, nullptr).ok());
  for (const RowTable& table : info.tables) {
    const auto fill = [&](int64_t first, int64_t count, std::span<std::byte> rows) {
      return make_synthetic_rows(table, 3, first, count, rows);
    };
    const auto made = value_or_throw(DramStore::create(table, fill, "made", 3));
    const auto read = value_or_throw(DramStore::open(Env::posix(), path, table.layer_id));
    EXPECT_TRUE(std::ranges::equal(made->rows(), read->rows()));
  }
  const auto failing = [](int64_t first, int64_t, std::span<std::byte>) {
    return first > 0 ? Status(StatusCode::kDataLoss, "no such row") : Status();
  };
  EXPECT_EQ(DramStore::create(info.tables[0], failing, "made", 2).status().code(), StatusCode::kDataLoss);
}

// A disk that fills up in the middle leaves no file under its name; with `resume` the work goes on where it stopped.
TEST_F(TableSources, InterruptedWorkResumes) {
  const std::string whole = (folder_ / "whole.rows").string(), resumed = (folder_ / "resumed.rows").string();
  const RowFileInfo info = value_or_throw(plan_synthetic({}, 6 << 20, TokenMap::identity(1000)));
  ASSERT_TRUE(write_synthetic(Env::posix(), whole, info, 3, false, nullptr).ok());
  const auto source = value_or_throw(open_table_source(Env::posix(), whole));
  const auto same = [&] {
    return value_or_throw(Env::posix().read_file(whole)) == value_or_throw(Env::posix().read_file(resumed));
  };
  const auto create = [&](Env& env, bool resume) { return write_synthetic(env, resumed, info, 3, resume, nullptr); };
  const auto convert = [&](Env& env, bool resume) {
    return convert_table(env, *source, resumed, info, resume, nullptr);
  };
  for (const std::function<Status(Env&, bool)>& work : {std::function<Status(Env&, bool)>(create), {convert}}) {
    FaultyEnv full(Env::posix(), {.disk_bytes = 4 << 20});
    EXPECT_EQ(StatusCode::kResourceExhausted, work(full, false).code());
    EXPECT_FALSE(fs::exists(resumed));
    ASSERT_TRUE(work(Env::posix(), true).ok());
    EXPECT_TRUE(same());
    fs::remove(resumed);
  }
}

TEST_F(TableSources, VerifyCountsDamagedPages) {
  const std::string path = (folder_ / "damaged.rows").string();
  const RowFileInfo info = value_or_throw(plan_synthetic({}, 2 << 20, TokenMap::identity(1000)));
  ASSERT_TRUE(write_synthetic(Env::posix(), path, info, 3, false, nullptr).ok());
  for (const int64_t page : {7, 200}) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(page * kRowPageBytes + 99);
    const char old = static_cast<char>(file.get());
    file.seekp(page * kRowPageBytes + 99);
    file.put(static_cast<char>(old ^ 4));
  }
  const VerifyReport report = value_or_throw(verify_row_file(Env::posix(), path, nullptr));
  EXPECT_EQ(2, report.damaged_pages);
  EXPECT_NE(std::string::npos, report.first_damage.find("page 7 ")) << report.first_damage;
}

}  // namespace
}  // namespace engram
