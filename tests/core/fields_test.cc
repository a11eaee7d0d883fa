#include "engram/core/fields.h"

#include <gmock/gmock.h>

#include "engram/core/json.h"

namespace engram {
namespace {

enum class Color { kRed, kBlue };
const EnumNames<Color> kColors = {{Color::kRed, "red"}, {Color::kBlue, "blue"}};

nlohmann::json object() {
  return value_or_throw(parse_json(R"({"i": 5, "neg": -5, "whole": 16.0, "big": 18446744073709551615, "f": 1.5,
    "s": "x", "t": true, "n": null, "list": [1, 2], "color": "blue", "inner": {"number": 1, "color": "y"}})",
                                   "f"));
}
template <typename Value, typename... Wanted>
std::string error_of(const char* key, const Wanted&... wanted) {
  return read_field<Value>(object(), key, "w", wanted...).status().message();
}

TEST(Fields, ReadsEveryKindAndKeepsDefaults) {
  const nlohmann::json json = object();
  Fields fields(json, "w");
  int i = 0, whole = 0, absent = 7, null = 8;
  double f = 0, number = 0;
  bool t = false;
  std::string s;
  std::optional<double> maybe, none;
  std::vector<int64_t> list, single;
  Color color = Color::kRed;
  fields("i", i, 5, 5);
  fields("whole", whole);
  fields("absent", absent);
  fields("n", null);
  fields("f", f, 1.0, 2.0);
  fields("i", number);
  fields("t", t);
  fields("s", s);
  fields("f", maybe);
  fields("absent", none);
  fields("list", list, 1, 2);
  fields("neg", single);
  fields("color", color, kColors);
  EXPECT_TRUE(fields.status().ok()) << fields.status().message();
  EXPECT_EQ(std::tie(i, whole, absent, null), std::make_tuple(5, 16, 7, 8));
  EXPECT_EQ(std::tie(f, number, t, s), std::make_tuple(1.5, 5.0, true, std::string("x")));
  EXPECT_EQ(maybe, 1.5);
  EXPECT_FALSE(none.has_value());
  EXPECT_THAT(list, testing::ElementsAre(1, 2));
  EXPECT_THAT(single, testing::ElementsAre(-5));
  EXPECT_EQ(color, Color::kBlue);
}

TEST(Fields, MessagesNameTheFieldWhatItGotAndWhatItWanted) {
  EXPECT_EQ(error_of<int>("i", 6, 9), "w: i: got 5, wanted an integer in [6, 9]");
  EXPECT_EQ(error_of<int64_t>("f"), "w: f: got 1.5, wanted an integer of 64 bits");
  EXPECT_EQ(error_of<int64_t>("big"), "w: big: got 18446744073709551615, wanted an integer of 64 bits");
  EXPECT_EQ(error_of<double>("i", 0, 1), "w: i: got 5, wanted a number in [0, 1]");
  EXPECT_EQ(error_of<double>("neg", 0), "w: neg: got -5, wanted a number at least 0");
  EXPECT_EQ(error_of<std::string>("list"), "w: list: got an array, wanted a string");
  EXPECT_EQ(error_of<std::vector<int>>("list", 0, 1), "w: list[1]: got 2, wanted an integer in [0, 1]");
  EXPECT_EQ(error_of<Color>("s", kColors), "w: s: got 'x', wanted \"red\" or \"blue\"");
  EXPECT_EQ(error_of<bool>("zz"), "w: zz: missing");
  EXPECT_EQ(error_of<bool>("n"), "w: n: missing");
  EXPECT_EQ(read_field<bool>(object()["i"], "zz", "w").status().message(), "w: got 5, wanted an object");
}

TEST(Fields, TheFirstErrorStaysAndUnknownKeysAreNamed) {
  const nlohmann::json json = object();
  Fields fields(json, FieldSource{"w", {{"inner", "w:3"}, {"inner.color", "w:4"}}}), inner = fields.section("inner");
  int number = 0;
  std::string text;
  inner("number", number);
  EXPECT_EQ(inner.finish().message(), "w:4: unknown key 'inner.color'");
  inner("colour", text);
  EXPECT_EQ(inner.finish().message(), "w:4: unknown key 'inner.color'; did you mean inner.colour?");
  inner("color", number);
  inner("number", text);
  EXPECT_EQ(inner.finish().message(), "w:4: inner.color: got 'y', wanted an integer in [-2147483648, 2147483647]");
  EXPECT_EQ(inner.failed(), "inner.color");
  EXPECT_EQ(number, 1);
  EXPECT_EQ(fields.section("i").finish().message(), "w: i: got 5, wanted a section [i]");
  EXPECT_TRUE(fields.section("absent").finish().ok());
}

}  // namespace
}  // namespace engram
