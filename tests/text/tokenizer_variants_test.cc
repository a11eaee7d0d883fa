// Small tokenizer files in every supported shape against ids made by the package `tokenizers`
// (tests/golden/make/tokenizer_variants.py).
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/json.h"
#include "engram/text/tokenizer.h"

namespace engram {
namespace {

nlohmann::json patched(nlohmann::json file, const nlohmann::json& patch) {
  for (const auto& [key, value] : patch.items()) {
    if (key == "model") {
      file["model"].merge_patch(value);
    } else {
      file[key] = value;
    }
  }
  return file;
}

void check_file(const std::string& name, size_t least) {
  const std::string path = ENGRAM_SOURCE_DIR "/tests/text/data/" + name;
  const nlohmann::json cases = value_or_throw(read_json_file(Env::posix(), path));
  const nlohmann::json& texts = cases["texts"];
  for (const nlohmann::json& variant : cases["variants"]) {
    SCOPED_TRACE(variant["name"].get<std::string>());
    std::string file = patched(cases["base"], variant["patch"]).dump();
    Result<Tokenizer> tokenizer = Tokenizer::parse(file, "variant");
    if (!tokenizer.ok()) {
      ADD_FAILURE() << tokenizer.status().message();
      continue;
    }
    for (size_t i = 0; i < texts.size(); ++i) {
      const auto text = texts[i].get<std::string>();
      const auto want = variant["ids"][i].get<std::vector<int32_t>>();
      Result<std::vector<int32_t>> got = tokenizer->encode(text);
      ASSERT_TRUE(got.ok()) << got.status().message();
      EXPECT_EQ(*got, want) << quote_text(text, 200);
      if (variant.contains("special_ids")) {
        EXPECT_EQ(value_or_throw(tokenizer->encode(text, true)), variant["special_ids"][i].get<std::vector<int32_t>>());
      }
      auto decoded = [&](const char* key) {
        return variant[key][i].is_null() ? text : variant[key][i].get<std::string>();
      };
      EXPECT_EQ(value_or_throw(tokenizer->decode(want, true)), decoded("decoded"));
      EXPECT_EQ(value_or_throw(tokenizer->decode(want, false)), decoded("decoded_raw"));
    }
  }
  EXPECT_GE(cases["variants"].size(), least);
}

TEST(TokenizerVariants, ByteLevelIdsAndTextsEqualTheOracles) { check_file("tokenizer_variants.json", 160); }
TEST(TokenizerVariants, IdsAndTextsOfPiecesEqualTheOracles) { check_file("tokenizer_pieces.json", 73); }

}  // namespace
}  // namespace engram
