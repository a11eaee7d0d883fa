#include "engram/data/text_parts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "tests/data/data_test.h"

namespace engram {
namespace {

using TextPartsTest = DataTest;

std::vector<int32_t> random_tokens(size_t count, uint32_t seed, int32_t vocab_size = 1000) {
  std::mt19937 random(seed);
  std::vector<int32_t> out(count);
  for (int32_t& token : out) token = static_cast<int32_t>(random() % static_cast<uint32_t>(vocab_size));
  return out;
}

TEST(RepeatedBigrams, OnlyEarlierInTheSameWindow) {
  //                                    0  1  2  3  4  5  6  7  8
  const std::vector<int32_t> tokens = {7, 8, 7, 8, 9, 7, 8, 7, 8};
  // Windows of 4 predict 1..4 and 5..8: in the first (7 8) comes again at 3; in the second (7 8) at 8, and (8 7) at 7
  // only stands in the first one.
  EXPECT_EQ(repeated_bigrams(tokens, 4),
            (std::vector<bool>{false, false, false, true, false, false, false, false, true}));
  EXPECT_EQ(repeated_bigrams(tokens, 100),
            (std::vector<bool>{false, false, false, true, false, false, true, true, true}));
  EXPECT_TRUE(repeated_bigrams({}, 4).empty());
}

// Against every run of 13 tokens compared by hand, over two shards; a run across the shards is none.
TEST_F(TextPartsTest, OverlapIsWhatComparingEveryRunFinds) {
  const std::vector<int32_t> first = random_tokens(400, 1, 3), second = random_tokens(300, 2, 3);
  const TokenShard a = make_shard("a", {first}, 1000), b = make_shard("b", {second}, 1000);
  std::vector<int32_t> text = random_tokens(2000, 3, 3);
  text.insert(text.end(), first.begin() + 50, first.begin() + 70);
  text.insert(text.end(), first.end() - 7, first.end());  // the end of one shard, the beginning of the other
  text.insert(text.end(), second.begin(), second.begin() + 6);
  text.insert(text.end(), 30, 999);
  std::vector<bool> wanted(text.size());
  for (size_t i = 0; i + 13 <= text.size(); ++i)
    for (const auto& shard : {first, second})
      if (std::search(shard.begin(), shard.end(), text.begin() + static_cast<std::ptrdiff_t>(i),
                      text.begin() + static_cast<std::ptrdiff_t>(i) + 13) != shard.end())
        std::fill_n(wanted.begin() + static_cast<std::ptrdiff_t>(i), 13, true);
  EXPECT_TRUE(wanted[2005]);
  EXPECT_FALSE(wanted.back());
  const TokenShard* shards[] = {&a, &b};
  EXPECT_EQ(overlap_with(text, shards), wanted);
  EXPECT_EQ(overlap_with(std::span(text).first(12), shards), std::vector<bool>(12));
}

TEST_F(TextPartsTest, LossesAreSumsOfCells) {
  const TokenShard a = make_shard("a", {{1, 2, 1, 2}}, 10), b = make_shard("b", {{3, 4}}, 10);
  std::vector<TokenShard> validation;
  validation.push_back(TokenShard(value_or_throw(TokenShard::open(Env::posix(), path("a")))));
  validation.push_back(TokenShard(value_or_throw(TokenShard::open(Env::posix(), path("b")))));
  const std::vector<int32_t> tokens = {1, 2, 1, 2, 3, 4};
  const TextParts parts = divide_text(tokens, 8, validation, {});
  EXPECT_EQ(parts.count(), 8);
  EXPECT_EQ(parts.cells, (std::vector<uint32_t>{0, 0, 0, 1, 4, 4}));
  const auto losses =
      parts.losses(std::vector<double>{4, 1, 0, 0, 6, 0, 0, 0}, std::vector<int64_t>{2, 1, 0, 0, 2, 0, 0, 0});
  std::map<std::string, std::pair<int64_t, double>> by_name;
  for (const PartLoss& part : losses) by_name[part.name] = {part.tokens, part.loss};
  EXPECT_EQ(by_name["repeats"], std::pair(int64_t{1}, 1.0));
  EXPECT_EQ(by_name["rest"], std::pair(int64_t{4}, 2.5));
  EXPECT_EQ(by_name["overlap"], std::pair(int64_t{0}, 0.0));
  EXPECT_EQ(by_name["no overlap"], std::pair(int64_t{5}, 2.2));
  EXPECT_EQ(by_name["source " + path("b")], std::pair(int64_t{2}, 3.0));
}

}  // namespace
}  // namespace engram
