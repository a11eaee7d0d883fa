// Messages of the library named flags of one program ("--temperature"), to callers from C, Python and HTTP alike. They
// name the fields that a caller has set.
#include <gtest/gtest.h>

#include "engram/model/decode/generate.h"
#include "engram/model/memory/served_tables.h"
#include "tests/model/tiny_checkpoint.h"

namespace engram {
namespace {

void expect_field(const Status& status, const std::string& field) {
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(status.message().starts_with(field)) << status.message();
  EXPECT_EQ(status.message().find("--"), std::string::npos) << status.message();
}

TEST(MessagesNameFlags, SamplerAndGenerateNameFields) {
  SamplerOptions options;
  options.temperature = -1;
  expect_field(options.validate(), "temperature: got -1");
  options = {};
  options.top_k = -2;
  expect_field(options.validate(), "top_k: got -2");
  options = {};
  options.top_p = 0;
  expect_field(options.validate(), "top_p: got 0");
  options = {};
  options.min_p = 2;
  expect_field(options.validate(), "min_p: got 2");
  options = {};
  options.seed = -1;
  expect_field(options.validate(), "seed: got -1");
  GenerateOptions generate_options;
  generate_options.max_tokens = -1;
  expect_field(generate_options.validate(), "max_tokens: got -1");
}

TEST(MessagesNameFlags, PlacementsAreTables) {
  const Tokenizer tokenizer = tiny_tokenizer();
  const TemporaryFolder folder;
  save_tiny(tiny_model(tiny_config(tokenizer)), tokenizer, folder / "memory");
  save_tiny(tiny_model(tiny_config(tokenizer, MemoryKind::kNone)), tokenizer, folder / "none");
  for (const auto& [name, placement] : {std::pair("memory", "9=constant"), std::pair("none", "resident")}) {
    const LoadedModel model = value_or_throw(load_model(Env::posix(), folder / name));
    const std::vector<std::string> placements = {placement};
    expect_field(ServedTables::open(Env::posix(), model, placements).status(), std::string("table ") + placement);
  }
}

}  // namespace
}  // namespace engram
