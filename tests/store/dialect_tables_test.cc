// Tables of the rules of raw ids against files that other programs wrote (tests/golden/make/dialect_tables.py): their
// rows, the row ids that they give, the row file made of them, and what is refused.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engram/core/sha256.h"
#include "engram/formats/safetensors.h"
#include "engram/kernels/row_codec.h"
#include "engram/store/import/table_source.h"
#include "engram/store/import/table_tools.h"
#include "tests/fault_env.h"

namespace engram {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const std::string kTables = ENGRAM_SOURCE_DIR "/tests/parity/dialects";

json read_json(const std::string& path) { return json::parse(std::ifstream(path)); }

class DialectTables : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) /
              (std::string("dialect_tables_") + testing::UnitTest::GetInstance()->current_test_info()->name());
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
  std::string part(int number) const { return (folder_ / fmt::format("longcat-{:05}-of-00003.gguf", number)).string(); }
  void copy_parts() {
    for (int number = 1; number <= 3; ++number) copy(fs::path(part(number)).filename().string());
  }
  // Opens a copy of `name` in which `change` has edited one JSON file.
  Status open_changed(const std::string& name, const std::string& file, const std::function<void(json&)>& change) {
    const std::string path = copy(name);
    json content = read_json(path + "/" + file);
    change(content);
    std::ofstream(path + "/" + file) << content.dump();
    return open_table_source(Env::posix(), path).status();
  }
  static void expect_refusal(const Status& status, const std::string& part) {
    EXPECT_FALSE(status.ok()) << "wanted a refusal with: " << part;
    EXPECT_NE(std::string::npos, status.message().find(part)) << status.message();
    EXPECT_EQ(std::string::npos, status.message().find('\n')) << status.message();
  }
  fs::path folder_;
};

std::string digest(const TableSource& source, int table) {
  const SourceTable& info = source.tables()[static_cast<size_t>(table)];
  std::vector<std::byte> rows(static_cast<size_t>(info.num_rows * info.format.row_bytes()));
  throw_if_error(source.read_rows(table, 0, info.num_rows, rows));
  std::vector<float> values(static_cast<size_t>(info.num_rows * info.format.width));
  decode_rows(info.format, rows.data(), static_cast<size_t>(info.format.row_bytes()), info.num_rows, values.data());
  return sha256_hex({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
}

TEST_F(DialectTables, RowsAndRowIdsEqualTheOraclesInSourceAndRowFile) {
  const json wanted = read_json(kTables + "/expected.json");
  const auto tokens = wanted["tokens"].get<std::vector<int32_t>>();
  for (const auto& [name, layers] : wanted["sources"].items()) {
    SCOPED_TRACE(name);
    const auto source = value_or_throw(open_table_source(Env::posix(), kTables + "/" + name));
    ASSERT_TRUE(source->hash()) << source->hash_note();
    const std::string path = (folder_ / "table.rows").string();
    const RowFileInfo info = value_or_throw(plan_convert(*source, std::nullopt));
    throw_if_error(convert_table(Env::posix(), *source, path, info, false, nullptr));
    const auto converted = value_or_throw(open_table_source(Env::posix(), path));
    ASSERT_TRUE(converted->hash());
    EXPECT_EQ(source->hash()->to_json(), converted->hash()->to_json());
    EXPECT_EQ(converted->hash()->to_json()["rule"], name.starts_with("qwen") ? "qwen4exp" : "longcat");
    const TokenMap map = TokenMap::identity(64);
    const RowIds row_ids = value_or_throw(value_or_throw(info.hasher(map)).hash(tokens));
    ASSERT_EQ(layers.size(), info.tables.size());
    for (const auto& [layer, facts] : layers.items()) {
      const int table = value_or_throw(info.find_layer(std::stoi(layer)));
      EXPECT_EQ(facts["rows"], info.tables[static_cast<size_t>(table)].num_rows);
      EXPECT_EQ(facts["width"], info.tables[static_cast<size_t>(table)].format.width);
      EXPECT_EQ(facts["sha256"], digest(*source, table));
      EXPECT_EQ(facts["sha256"], digest(*converted, table));
      std::vector<int64_t> flat;
      for (const json& token : facts["row_ids"]) {
        for (const json& id : token) flat.push_back(id);
      }
      EXPECT_TRUE(std::ranges::equal(row_ids.layer(table), flat)) << "layer " << layer;
    }
    EXPECT_EQ(info.hasher(TokenMap::identity(65)).status().code(), StatusCode::kFailedPrecondition);
    fs::remove(path);
  }
}

TEST_F(DialectTables, AHeaderThatContradictsItsRowsIsRefused) {
  const auto source = value_or_throw(open_table_source(Env::posix(), kTables + "/longcat_lite"));
  RowFileHash hash = *source->hash();
  hash.config.vocab_size_ratio = 3;
  const RowFileInfo info =
      value_or_throw(RowFileInfo::create(value_or_throw(plan_convert(*source, std::nullopt)).tables, hash));
  expect_refusal(info.layout().status(), "wanted 1188, the sum of its heads");
  hash.config.pad_token_id = 64;
  expect_refusal(RowFileInfo::create(info.tables, hash).status(), "eos_token_id: got 64, wanted 0 .. 63");
}

// Rows from the end of one tensor into the next ones are one read.
TEST_F(DialectTables, ReadsCrossTensors) {
  for (const char* name : {"longcat_lite", "longcat-00002-of-00003.gguf", "qwen4exp", "qwen4exp_heads.gguf"}) {
    const auto source = value_or_throw(open_table_source(Env::posix(), kTables + "/" + name));
    const SourceTable& table = source->tables()[0];
    const auto row_bytes = static_cast<size_t>(table.format.row_bytes());
    std::vector<std::byte> all(static_cast<size_t>(table.num_rows) * row_bytes), one(row_bytes);
    throw_if_error(source->read_rows(0, 0, table.num_rows, all));
    for (int64_t row = 0; row < table.num_rows; ++row) {
      throw_if_error(source->read_rows(0, row, 1, one));
      ASSERT_TRUE(std::equal(one.begin(), one.end(), all.begin() + row * static_cast<int64_t>(row_bytes)))
          << name << " row " << row;
    }
  }
}

TEST_F(DialectTables, WhatDoesNotFitIsRefusedByName) {
  const auto config = [&](const char* name, const char* key, const json& value) {
    return open_changed(name, "config.json", [&](json& content) { content[key] = value; });
  };
  const auto without = [&](const char* name, const std::string& tensor) {
    return open_changed(name, "model.safetensors.index.json",
                        [&](json& content) { EXPECT_EQ(content["weight_map"].erase(tensor), 1u) << tensor; });
  };
  expect_refusal(config("qwen4exp", "eos_token_id", 64), "eos_token_id: got 64, wanted 0 .. 63");
  expect_refusal(config("qwen4exp", "ngram_vocab_size_base", 24), "ngram_heads_vocab_sizes");
  expect_refusal(config("qwen4exp", "ngram_vocab_size_base", INT64_MAX), "ngram_vocab_size_base");
  expect_refusal(config("longcat_lite", "eos_token_id", json::array()), "eos_token_id: got an empty list");
  expect_refusal(config("longcat_lite", "ngram_vocab_size_ratio", 3), "wanted [193, 8]");
  expect_refusal(config("longcat_lite", "ngram_vocab_size_ratio", 1e300), "vocab_size_ratio: got 1e+300");
  expect_refusal(config("longcat_2", "oe_split_num", 5), "no tensor ngram_embeddings.embedders.16.weight");
  expect_refusal(config("longcat_2", "oe_neighbor_num", 17), "max_ngram_size: got 17");
  const std::string prefix = "model.layers.0.ple.ple_embedding.";
  expect_refusal(without("qwen4exp", prefix + "ngram_embedding.shard_2.weight"), "ngram_embedding.shard_2");
  expect_refusal(without("qwen4exp", prefix + "layer_multipliers"), "layer_multipliers");
  expect_refusal(without("longcat_lite", "model.ngram_embeddings.embedders.3.weight"), "embedders.3.weight");
  const std::string path = copy("longcat_lite");
  fs::remove(path + "/model-00002-of-00002.safetensors");
  expect_refusal(open_table_source(Env::posix(), path).status(), "model-00002-of-00002.safetensors");
}

// An fp8 table without its scale would be fluent and wrong.
TEST_F(DialectTables, AMissingScaleIsNamed) {
  const std::string from = ENGRAM_SOURCE_DIR "/tests/parity/tables/ple_fp8", to = (folder_ / "fp8").string();
  fs::copy(from, to);
  const auto file = value_or_throw(SafetensorsFile::open(Env::posix(), to + "/model.safetensors"));
  json map = json::object();
  for (const auto& [name, tensor] : file.tensors()) {
    if (!name.ends_with("weight_scale")) map[name] = "model.safetensors";
  }
  std::ofstream(to + "/model.safetensors.index.json") << json{{"weight_map", map}}.dump();
  expect_refusal(open_table_source(Env::posix(), to).status(), "no tensor 'model.language_model.layers.1.ple");
}

TEST_F(DialectTables, GgufPartsThatDoNotFitAreRefused) {
  copy_parts();
  EXPECT_TRUE(open_table_source(Env::posix(), part(3)).ok());
  fs::copy_file(part(2), part(3), fs::copy_options::overwrite_existing);
  expect_refusal(open_table_source(Env::posix(), part(1)).status(), "split.no is 1, wanted 2");
  fs::remove(part(3));
  expect_refusal(open_table_source(Env::posix(), part(1)).status(), "longcat-00003-of-00003.gguf");
  fs::rename(part(1), folder_ / "renamed.gguf");
  expect_refusal(open_table_source(Env::posix(), (folder_ / "renamed.gguf").string()).status(),
                 "wanted a name that ends in -00001-of-00003.gguf");
  // Of another model: as many parts, other tensors.
  copy_parts();
  std::string bytes = value_or_throw(Env::posix().read_file(part(2)));
  const size_t at = bytes.find("ngram_embd.3.weight");
  ASSERT_NE(at, std::string::npos);
  std::string doubled = bytes;
  doubled.replace(at, 19, "ngram_embd.0.weight");
  throw_if_error(write_file_atomic(Env::posix(), part(2), doubled));
  expect_refusal(open_table_source(Env::posix(), part(1)).status(), "ngram_embd.0.weight' is in an earlier part too");
  std::string other = bytes;
  const size_t total = other.find("split.tensors.count") + 19 + 4;
  other[total] = static_cast<char>(other[total] + 1);
  throw_if_error(write_file_atomic(Env::posix(), part(2), other));
  expect_refusal(open_table_source(Env::posix(), part(1)).status(), "a part of another model");
}

}  // namespace
}  // namespace engram
