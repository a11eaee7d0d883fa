// Mixture: shares hold for every prefix, and windows of a source come in their order.
#include "engram/data/mixture.h"

#include <gtest/gtest.h>

#include <random>

namespace engram {
namespace {

std::string order_of(const std::vector<double>& shares, int windows) {
  const Mixture mixture = value_or_throw(Mixture::create(shares));
  std::string order;
  for (int k = 0; k < windows; ++k) order += static_cast<char>('a' + mixture(static_cast<unsigned>(k)).source);
  return order;
}

TEST(Mixture, OrdersByExample) {
  EXPECT_EQ(order_of({1}, 3), "aaa");
  EXPECT_EQ(order_of({0.5, 0.5}, 6), "ababab");
  EXPECT_EQ(order_of({0.25, 0.75}, 8), "bbabbbab");
}

// After any number of windows each source has had its share, except for less than one; its windows are 0, 1, 2, ..
TEST(Mixture, EveryPrefixHasItsShares) {
  std::mt19937 random(3);
  for (int round = 0; round < 30; ++round) {
    std::vector<double> shares(1 + random() % 12);
    int64_t left = 1'000'000;
    for (size_t s = 0; s + 1 < shares.size(); ++s) {
      const auto most = static_cast<uint64_t>(left - static_cast<int64_t>(shares.size() - s));
      const int64_t part = 1 + static_cast<int64_t>(random() % (round % 2 == 0 ? most : most / 2 + 1));
      shares[s] = static_cast<double>(part) / 1e6;
      left -= part;
    }
    shares.back() = static_cast<double>(left) / 1e6;
    const Mixture mixture = value_or_throw(Mixture::create(shares));
    std::vector<int64_t> seen(shares.size());
    for (int64_t k = 0; k < 20'000; ++k) {
      const auto [source, index] = mixture(static_cast<unsigned __int128>(k));
      ASSERT_EQ(static_cast<int64_t>(index), seen[static_cast<size_t>(source)]++);
      for (size_t s = 0; s < shares.size(); ++s)
        ASSERT_LT(std::abs(static_cast<double>(seen[s]) - shares[s] * static_cast<double>(k + 1)), 1.0)
            << "source " << s << " of " << shares.size() << " after " << k + 1;
    }
    // Far away it goes on the same.
    const auto far = static_cast<unsigned __int128>(1) << 90;
    std::vector<unsigned __int128> next(shares.size());
    for (unsigned k = 0; k < 2'000; ++k) {
      const auto [source, index] = mixture(far + k);
      unsigned __int128& wanted = next[static_cast<size_t>(source)];
      ASSERT_TRUE(wanted == 0 || index == wanted);
      wanted = index + 1;
    }
  }
}

TEST(Mixture, RefusesSharesThatAreNone) {
  const auto message = [](const std::vector<double>& shares) { return Mixture::create(shares).status().message(); };
  EXPECT_EQ(message({}), "shares: got 0 sources, wanted 1 to 64");
  EXPECT_EQ(message({0.5, 0.6}), "shares: got a sum of 1.1, wanted 1");
  EXPECT_EQ(message({1, 0}), "shares: got 0, wanted at least a millionth and at most 1");
  EXPECT_EQ(message({std::nan("")}), "shares: got nan, wanted at least a millionth and at most 1");
  EXPECT_TRUE(Mixture::create({0.333333, 0.333333, 0.333333}).ok());
  EXPECT_TRUE(Mixture::create(std::vector<double>(64, 1.0 / 64)).ok());
}

}  // namespace
}  // namespace engram
