// A recipe saved by an editor of another system, with a byte-order mark and CRLF line ends, was refused: "got a
// character that is not ASCII". So was a JSON file.
//
// Right: read.
#include <gtest/gtest.h>

#include "engram/core/json.h"
#include "tests/regress/train/tiny_recipe.h"

namespace engram {
namespace {

TEST(RecipeWithByteOrderMark, IsTheRecipeWithout) {
  const Recipe plain = value_or_throw(Recipe::parse(kTinyRecipe, "tiny.toml", {}));
  std::string text = "\xEF\xBB\xBF# Ma\xC3\x9F\r\n";
  for (const char* c = kTinyRecipe; *c != '\0'; ++c) text += *c == '\n' ? std::string("\r\n") : std::string(1, *c);
  const Recipe marked = value_or_throw(Recipe::parse(text, "tiny.toml", {}));
  EXPECT_EQ(marked.to_toml(), plain.to_toml());
  EXPECT_EQ(marked.train.output, plain.train.output);
  // A second mark is none, and the line is still named.
  EXPECT_EQ(Recipe::parse("\xEF\xBB\xBF\xEF\xBB\xBF[model]\n", "x.toml", {}).status().message().substr(0, 9),
            "x.toml:1:");
  EXPECT_EQ(Recipe::parse("\xEF\xBB\xBF[model]\r\n\xC3\x9F = 1\r\n", "x.toml", {}).status().message().substr(0, 9),
            "x.toml:2:");
}

TEST(JsonWithByteOrderMark, IsRead) {
  EXPECT_EQ(value_or_throw(parse_json("\xEF\xBB\xBF{\"a\": 1}\r\n", "config.json"))["a"], 1);
}

}  // namespace
}  // namespace engram
