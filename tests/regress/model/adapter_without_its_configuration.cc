// A checkpoint whose adapter_config.json was lost (copied without it) loaded as the base alone: its low-rank changes
// were left out in silence.
//
// Right: one line, and nothing is loaded. So for every other damage to the two files.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "engram/model/io/lora.h"
#include "tests/model/tiny_checkpoint.h"

namespace engram {
namespace {

class DamagedAdapter : public testing::Test {
 protected:
  void SetUp() override {
    const Tokenizer tokenizer = tiny_tokenizer();
    TinyModel tiny = tiny_model(tiny_config(tokenizer, MemoryKind::kNone));
    LoraConfig lora;
    lora.rank = 2;
    lora.targets = {"o_proj", "gate_proj"};
    add_lora(*tiny.model, lora);
    throw_if_error(env_.create_directory(step_));
    save_tiny(tiny, tokenizer, step_);
    throw_if_error(save_lora(env_, step_, *tiny.model, lora));
    ASSERT_TRUE(load_model(env_, step_).ok());
  }
  // What loading says, once `damage` has been done to `file`; the file is then as before.
  template <typename Damage>
  std::string message(const std::string& file, Damage damage) {
    const std::string path = join_path(step_, file), whole = value_or_throw(env_.read_file(path));
    damage(path, whole);
    const auto model = load_model(env_, step_);
    std::ofstream(path, std::ios::binary) << whole;
    const std::string text = model.ok() ? "no error" : model.status().message();
    EXPECT_NE(text.find(step_), std::string::npos) << text;  // which file
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    return text;
  }
  static void write(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

  TemporaryFolder folder_;
  Env& env_ = Env::posix();
  const std::string step_ = folder_ / "step";
};

TEST_F(DamagedAdapter, IsOneLine) {
  const auto gone = [](const std::string& path, const std::string&) { std::filesystem::remove(path); };
  EXPECT_NE(
      message(kAdapterConfigFile, gone).find("adapter_config.json: no such file, and adapter_model.safetensors is"),
      std::string::npos);
  EXPECT_NE(message(kAdapterFile, gone).find("adapter_model.safetensors"), std::string::npos);
  const auto half = [](const std::string& path, const std::string& text) {
    write(path, text.substr(0, text.size() / 2));
  };
  EXPECT_NE(message(kAdapterFile, half).find("adapter_model.safetensors"), std::string::npos);
  EXPECT_NE(message(kAdapterConfigFile, half).find("adapter_config.json"), std::string::npos);
  const auto noise = [](const std::string& path, const std::string& text) {
    write(path, std::string(text.size(), '\x9d'));
  };
  EXPECT_NE(message(kAdapterFile, noise).find("adapter_model.safetensors"), std::string::npos);
  const auto replaced = [](const std::string& from, const std::string& to) {
    return [=](const std::string& path, const std::string& text) {
      const size_t at = text.find(from);
      ASSERT_NE(at, std::string::npos);
      write(path, text.substr(0, at) + to + text.substr(at + from.size()));
    };
  };
  // Another rank than the file's matrices have, another projection, and an adapter of another kind.
  EXPECT_NE(message(kAdapterConfigFile, replaced("\"r\": 2", "\"r\": 3")).find("got shape [2, "), std::string::npos);
  EXPECT_NE(message(kAdapterConfigFile, replaced("\"o_proj\"", "\"q_proj\"")).find("q_proj"), std::string::npos);
  EXPECT_NE(message(kAdapterConfigFile, replaced("LORA", "LOHA")).find("peft_type: got 'LOHA', wanted \"LORA\""),
            std::string::npos);
}

}  // namespace
}  // namespace engram
