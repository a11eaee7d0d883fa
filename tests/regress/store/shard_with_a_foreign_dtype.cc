// Seen: a DeepSeek shard that also holds a tensor of dtype F4, F8_E4M3FNUZ or F6_E3M2 was refused, and its tables with
// it. Right: the tables are read as before; a table of such a dtype is refused by name.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "engram/formats/gguf.h"
#include "engram/store/import/table_source.h"
#include "tests/store/store_test.h"

namespace engram {
namespace {

namespace fs = std::filesystem;

class ShardWithAForeignDtype : public StoreTest {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    fs::copy(ENGRAM_SOURCE_DIR "/tests/parity/tables/deepseek_v41", path("model"), fs::copy_options::recursive);
  }
  // Edits the header of every shard and appends `more` bytes of data.
  template <typename Edit>
  void edit_shards(const Edit& edit, size_t more) {
    for (const auto& entry : fs::directory_iterator(path("model"))) {
      if (entry.path().extension() != ".safetensors") continue;
      std::stringstream all;
      all << std::ifstream(entry.path(), std::ios::binary).rdbuf();
      const std::string bytes = all.str();
      uint64_t length;
      std::memcpy(&length, bytes.data(), 8);
      nlohmann::json header = nlohmann::json::parse(bytes.substr(8, length));
      edit(header, bytes.size() - 8 - length);
      const std::string text = header.dump();
      const uint64_t size = text.size();
      std::ofstream(entry.path(), std::ios::binary) << std::string(reinterpret_cast<const char*>(&size), 8) << text
                                                    << bytes.substr(8 + length) << std::string(more, 'x');
    }
  }
};

TEST_F(ShardWithAForeignDtype, TablesAreReadAsBefore) {
  const auto read_all = [&] {
    const auto source = value_or_throw(open_table_source(Env::posix(), path("model")));
    const SourceTable& table = source->tables()[0];
    std::vector<std::byte> rows(static_cast<size_t>(table.num_rows * table.format.row_bytes()));
    throw_if_error(source->read_rows(0, 0, table.num_rows, rows));
    return rows;
  };
  const auto before = read_all();
  for (const char* dtype : {"F4", "F8_E4M3FNUZ", "F6_E3M2"}) {
    int count = 0;
    edit_shards(
        [&](nlohmann::json& header, size_t end) {
          header[fmt::format("other.{}.{}.{}", dtype, end, count++)] = {
              {"dtype", dtype}, {"shape", {3, 5}}, {"data_offsets", {end, end + 12}}};
        },
        12);
    EXPECT_EQ(read_all(), before) << dtype;
  }
}

TEST_F(ShardWithAForeignDtype, ATableOfItIsRefusedByName) {
  edit_shards(
      [](nlohmann::json& header, size_t) {
        for (auto& [name, tensor] : header.items()) {
          if (name.find("embed.weight") != std::string::npos) tensor["dtype"] = "F8_E4M3FNUZ";
        }
      },
      0);
  const Status status = open_table_source(Env::posix(), path("model")).status();
  EXPECT_EQ(status.code(), StatusCode::kUnimplemented);
  EXPECT_NE(status.message().find("embed.weight"), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("dtype: got 'F8_E4M3FNUZ'"), std::string::npos) << status.message();
}

// GGUF numbers its types; new ones keep coming there too.
TEST(GgufWithAForeignType, OtherTensorsAreSeen) {
  std::string bytes = "GGUF";
  const auto add = [&](auto value) { bytes.append(reinterpret_cast<const char*>(&value), sizeof value); };
  add(uint32_t{3});
  add(uint64_t{2});
  add(uint64_t{0});
  const auto add_tensor = [&](std::string_view name, uint32_t type, uint64_t offset) {
    add(uint64_t{name.size()});
    bytes += name;
    add(uint32_t{1});
    add(uint64_t{8});
    add(type);
    add(offset);
  };
  add_tensor("known", 0, 0);
  add_tensor("foreign", 4711, 32);
  bytes.resize(256, '\0');
  const GgufFile file = value_or_throw(GgufFile::parse(std::as_bytes(std::span(bytes)), "g"));
  EXPECT_TRUE(file.tensors().contains("known"));
  EXPECT_EQ(file.tensors().at("foreign").type, 4711u);
}

}  // namespace
}  // namespace engram
