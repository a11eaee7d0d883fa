// A tokenizer_config.json with several chat templates by name: the list was copied, the template was read from the copy
// when that was gone, and the imported model had none.
#include <gtest/gtest.h>

#include <filesystem>

#include "engram/model/convert/convert_model.h"
#include "tests/model/tiny_checkpoint.h"

namespace engram {
namespace {

TEST(NamedTemplatesAreLost, TheDefaultOneIsImported) {
  TemporaryFolder folder;
  Env& env = Env::posix();
  const std::string source = folder / "llama";
  std::filesystem::copy(std::string(ENGRAM_SOURCE_DIR) + "/tests/parity/families/llama_linear", source);
  throw_if_error(write_file_atomic(env, source + "/tokenizer.json", tiny_tokenizer().json()));
  throw_if_error(write_file_atomic(env, source + "/tokenizer_config.json",
                                   R"({"chat_template": [{"name": "rag", "template": "a"},
                                                         {"name": "default", "template": "b"}]})"));
  EXPECT_EQ(value_or_throw(open_source_model(env, source)).file.chat_template, "b");
}

}  // namespace
}  // namespace engram
