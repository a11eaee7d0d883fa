// Seen: config.json with the Engram keys at its root and an unrelated text_config beside them was "neither
// engram_layer_ids nor ple_layer_ids". Right: the keys are read where they are.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engram/store/import/table_source.h"
#include "tests/store/store_test.h"

namespace engram {
namespace {

namespace fs = std::filesystem;

class KeysBesideATextConfig : public StoreTest {
 protected:
  // Opens a copy of one of the test tables whose nested keys stand at the root, with `text_config` beside them.
  Result<std::unique_ptr<TableSource>> open(const std::string& name, const nlohmann::json& text_config) {
    fs::remove_all(path("model"));
    fs::copy(fs::path(ENGRAM_SOURCE_DIR "/tests/parity/tables") / name, path("model"), fs::copy_options::recursive);
    nlohmann::json config = nlohmann::json::parse(std::ifstream(path("model/config.json")));
    const nlohmann::json keys = config.at("text_config");
    config.update(keys);
    config["model_type"] = "somebodys";
    config["text_config"] = text_config;
    std::ofstream(path("model/config.json")) << config.dump();
    return open_table_source(Env::posix(), path("model"));
  }
};

TEST_F(KeysBesideATextConfig, AreReadAtTheRoot) {
  for (const char* name : {"deepseek_v41", "ple_bf16"}) {
    for (const nlohmann::json& other : {nlohmann::json{{"hidden_size", 7}, {"engram_note", "none"}},
                                        nlohmann::json::object(), nlohmann::json("text"), nlohmann::json(nullptr)}) {
      const auto source = open(name, other);
      ASSERT_TRUE(source.ok()) << name << other << source.status().message();
      EXPECT_FALSE((*source)->tables().empty());
    }
  }
}

TEST_F(KeysBesideATextConfig, NestedKeysStillComeFirst) {
  const nlohmann::json nested = {{"engram_layer_ids", {1, 2, 3}}};
  EXPECT_FALSE(open("deepseek_v41", nested).ok());
}

}  // namespace
}  // namespace engram
