#include "engram/text/pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "engram/text/unicode.h"

namespace engram {
namespace {

using testing::HasSubstr;

std::string refusal(std::string_view pattern) {
  Result<Pattern> compiled = Pattern::compile(pattern);
  EXPECT_FALSE(compiled.ok()) << pattern;
  if (compiled.ok()) return "";
  EXPECT_EQ(compiled.status().code(), StatusCode::kInvalidArgument);
  return compiled.status().message();
}

TEST(Pattern, RefusesWhatIsMalformed) {
  EXPECT_THAT(refusal("(a"), HasSubstr("pattern '(a': end pattern with unmatched parenthesis"));
  EXPECT_THAT(refusal(R"(\p{Klingon})"), HasSubstr("invalid character property name {Klingon}"));
  EXPECT_THAT(refusal("\U00031350"), HasSubstr("a character newer than Oniguruma"));
  for (const char* pattern : {"a)", "[a", "[a-", "a\\", "[\\", "\\p{L", "[z-a]", "[]", "(?#x", "(?i", "a{999999}",
                              "\\u12", "\\k<x>", "(?(1)a", "(?<a>b)\\1"}) {
    EXPECT_FALSE(refusal(pattern).empty()) << pattern;
  }
  EXPECT_THAT(refusal(std::string(100'000, 'a')), HasSubstr("wanted at most 65536"));
}

std::vector<std::string> parts(const Pattern& pattern, std::string_view text) {
  std::vector<Match> slices;
  throw_if_error(pattern.slice(text, !needs_stand_ins(text), slices));
  std::vector<std::string> out;
  for (const Match& slice : slices) {
    std::string part(text.substr(slice.begin, slice.end - slice.begin));
    out.push_back(slice.matched ? "<" + part + ">" : part);
  }
  return out;
}

TEST(Pattern, SlicesCoverTheText) {
  using testing::ElementsAre;
  EXPECT_THAT(parts(*Pattern::compile("b+"), "abbac"), ElementsAre("a", "<bb>", "ac"));
  EXPECT_THAT(parts(*Pattern::compile("x*"), "axb"), ElementsAre("<>", "a", "<x>", "b", "<>"));
  EXPECT_THAT(parts(*Pattern::compile_literal("a.b"), "a.baxb"), ElementsAre("<a.b>", "axb"));
  EXPECT_THAT(parts(*Pattern::compile_literal("[\n "), "[\n x"), ElementsAre("<[\n >", "x"));
  EXPECT_FALSE(Pattern::compile_literal("").ok());
}

TEST(Pattern, GivesUpOnExponentialBacktracking) {
  Result<Pattern> pattern = Pattern::compile("(?:a+)+b|(?:a|aa)+c");
  ASSERT_TRUE(pattern.ok());
  std::vector<Match> slices;
  Status status = pattern->slice(std::string(60, 'a'), true, slices);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("gives up at byte 0 of a text of 60 bytes"));
}

TEST(Pattern, LongRunsNeedNoStackAndNoQuadraticTime) {
  Result<Pattern> pattern = Pattern::compile(R"(\s*[\r\n]+|\s+(?!\S)|\s+|(?:\p{L}|\d)+)");
  ASSERT_TRUE(pattern.ok());
  std::vector<Match> slices;
  throw_if_error(pattern->slice(std::string(2'000'000, ' ') + "x", true, slices));
  EXPECT_EQ(slices.size(), 3u);
  slices.clear();
  throw_if_error(pattern->slice(std::string(50'000, 'x'), true, slices));
  EXPECT_EQ(slices.size(), 1u);
}

TEST(Pattern, ThreadsMayShareOne) {
  Result<Pattern> pattern = Pattern::compile(R"(\p{L}+|\s+)");
  ASSERT_TRUE(pattern.ok());
  std::vector<std::thread> threads;
  std::vector<size_t> counts(4);
  for (size_t t = 0; t < counts.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) {
        std::vector<Match> slices;
        throw_if_error(pattern->slice("one two 3 four", true, slices));
        counts[t] += slices.size();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t count : counts) EXPECT_EQ(count, 50u * 7);
}

}  // namespace
}  // namespace engram
