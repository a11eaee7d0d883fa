#include "engram/core/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engram/core/env.h"

namespace engram {
namespace {

using testing::HasSubstr;

std::string error_of(std::string_view text, int max_depth = kJsonMaxDepth) {
  Result<nlohmann::json> value = parse_json(text, "f.json", max_depth);
  EXPECT_FALSE(value.ok()) << text;
  if (value.ok()) return "";
  EXPECT_EQ(value.status().code(), StatusCode::kDataLoss);
  EXPECT_EQ(value.status().message().find('\n'), std::string::npos);
  return value.status().message();
}

TEST(Json, ReadsEveryKindOfValue) {
  Result<nlohmann::json> value =
      parse_json(R"( {"a": [1, -2, 3.5, true, null, "x\u00e9\n"], "b": {"c": {}}, "": 18446744073709551615} )", "f");
  ASSERT_TRUE(value.ok()) << value.status().message();
  EXPECT_EQ((*value)["a"].size(), 6u);
  EXPECT_EQ((*value)["a"][5], "x\u00e9\n");
  EXPECT_EQ((*value)["b"]["c"], nlohmann::json::object());
  EXPECT_EQ((*value)[""], 18446744073709551615u);
  EXPECT_EQ(value_or_throw(parse_json("7", "f")), 7);
}

TEST(Json, NamesFileByteAndReason) {
  EXPECT_THAT(error_of("{\"a\": tru}"), HasSubstr("f.json: not JSON at byte 10"));
  EXPECT_THAT(error_of(""), HasSubstr("unexpected end of input"));
  EXPECT_THAT(error_of("{\"a\": 1"), HasSubstr("unexpected end of input"));
  EXPECT_THAT(error_of("[1] [2]"), HasSubstr("byte 5"));
  EXPECT_THAT(error_of("\"\xFF\""), HasSubstr("ill-formed UTF-8"));
  EXPECT_THAT(error_of("[1e999]"), HasSubstr("number overflow"));
  EXPECT_THAT(error_of("[NaN]"), HasSubstr("not JSON"));
}

TEST(Json, RefusesDuplicateKeysAndDeepNesting) {
  EXPECT_THAT(error_of(R"({"a": {"k": 1, "k": 2}})"), HasSubstr("key 'k' appears twice"));
  EXPECT_THAT(error_of(std::string(200'000, '[')), HasSubstr("deeper than 100"));
  EXPECT_THAT(error_of("[[[1]]]", 2), HasSubstr("deeper than 2"));
  EXPECT_TRUE(parse_json("[[1], [2]]", "f", 2).ok());
}

TEST(Json, QuotedTextStaysOnOneLine) {
  EXPECT_EQ(quote_text("a\n\x01\x7F\xFF\u4e2d\xE4\xB8"), "'a\\x0a\\x01\\x7f\\xff\u4e2d\\xe4\\xb8'");
  EXPECT_EQ(quote_text(std::string(100, 'x'), 5), "'xxxxx...'");
  EXPECT_EQ(quote_text("\xC2\x85"), "'\\xc2\\x85'");  // a control character of two bytes
}

}  // namespace
}  // namespace engram
