// Seen: a tokenizer.json with 40 normalizers that each replace a by aa took minutes and then all memory for one letter.
// Right: refused once a text grows beyond what any normal form makes of it.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "engram/text/added_tokens.h"
#include "engram/text/normalizer.h"

namespace engram {
namespace {

nlohmann::json replace(const std::string& from, const std::string& to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}
nlohmann::json sequence(nlohmann::json step, int times) {
  nlohmann::json steps = nlohmann::json::array();
  for (int i = 0; i < times; ++i) steps.push_back(step);
  return {{"type", "Sequence"}, {"normalizers", steps}};
}

TEST(NormalizerDoublesFortyTimes, IsRefusedWhereItGrows) {
  const Normalizer normalizer = value_or_throw(Normalizer::parse(sequence(replace("a", "aa"), 40), "t"));
  EXPECT_EQ(value_or_throw(normalizer.apply("bcd")), "bcd");
  EXPECT_EQ(normalizer.apply("a").status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(normalizer.apply(std::string(1 << 20, 'a')).status().code(), StatusCode::kResourceExhausted);
}

// One step alone, whose content is long: a megabyte of text would become a terabyte.
TEST(NormalizerDoublesFortyTimes, OneLongReplacement) {
  const Normalizer normalizer = value_or_throw(Normalizer::parse(replace("a", std::string(1 << 20, 'x')), "t"));
  EXPECT_EQ(normalizer.apply(std::string(1 << 20, 'a')).status().code(), StatusCode::kResourceExhausted);
  const Normalizer prefix =
      value_or_throw(Normalizer::parse(sequence({{"type", "Prepend"}, {"prepend", std::string(500, 'p')}}, 100), "t"));
  EXPECT_EQ(prefix.apply("t").status().code(), StatusCode::kResourceExhausted);
}

TEST(NormalizerDoublesFortyTimes, AddedTokensToo) {
  const Normalizer normalizer = value_or_throw(Normalizer::parse(sequence(replace("a", "aa"), 40), "t"));
  const nlohmann::json token = {{"id", 0},         {"content", "a"},     {"single_word", false}, {"lstrip", false},
                                {"rstrip", false}, {"normalized", true}, {"special", false}};
  EXPECT_EQ(AddedTokens::parse(nlohmann::json::array({token}), normalizer, "t").status().code(),
            StatusCode::kResourceExhausted);
}

TEST(NormalizerDoublesFortyTimes, ManySteps) {
  EXPECT_TRUE(Normalizer::parse(sequence(replace("a", "b"), 256), "t").ok());
  EXPECT_EQ(Normalizer::parse(sequence(replace("a", "b"), 257), "t").status().code(), StatusCode::kInvalidArgument);
}

// What real tokenizers do stays: the longest normal form, a prefix, a mark for each blank.
TEST(NormalizerDoublesFortyTimes, RealOnesStay) {
  const Normalizer nfkd = value_or_throw(Normalizer::parse({{"type", "NFKD"}}, "t"));
  std::string ligatures;
  for (int i = 0; i < 1000; ++i) ligatures += "\uFDFA";  // 3 bytes, 33 in its normal form
  EXPECT_EQ(value_or_throw(nfkd.apply(ligatures)).size(), 33000u);
  const Normalizer blanks = value_or_throw(Normalizer::parse(replace(" ", "\u2581"), "t"));
  EXPECT_EQ(value_or_throw(blanks.apply(std::string(1000, ' '))).size(), 3000u);
}

}  // namespace
}  // namespace engram
