// The passes of sampling against their plain forms, over sizes around the vector width and the block of a sum.
#include "engram/kernels/sampling.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace engram {
namespace {

std::vector<float> draw_logits(std::mt19937& random, int64_t n, bool ties) {
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> out(static_cast<size_t>(n));
  for (float& x : out) x = ties ? std::round(normal(random)) : normal(random);
  return out;
}

struct Weights {
  explicit Weights(int64_t n) : values(static_cast<size_t>(n)), sums(static_cast<size_t>(sum_blocks(n))) {}
  std::vector<float> values;
  std::vector<double> sums;
  double total = 0;
};

void expect_equal(const Weights& got, const Weights& wanted, const std::string& what) {
  for (size_t i = 0; i < got.values.size(); ++i) {
    ASSERT_NEAR(got.values[i], wanted.values[i], 1e-6 * wanted.values[i]) << what << ", weight " << i;
  }
  for (size_t i = 0; i < got.sums.size(); ++i) ASSERT_NEAR(got.sums[i], wanted.sums[i], 1e-6 * wanted.sums[i]) << what;
  EXPECT_NEAR(got.total, wanted.total, 1e-6 * wanted.total) << what;
}

constexpr int64_t kSizes[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 255, 256, 257, 300, 511, 513, 1000, 4099};

TEST(Sampling, ExtremesEqualTheStandardLibrarys) {
  std::mt19937 random(1);
  for (int64_t n : kSizes) {
    const std::vector<float> x = draw_logits(random, n, false);
    const Extremes got = extremes(x.data(), n);
    EXPECT_EQ(got.most, *std::ranges::max_element(x)) << n;
    EXPECT_EQ(got.least, *std::ranges::min_element(x)) << n;
  }
}

TEST(Sampling, WeightsEqualPlain) {
  std::mt19937 random(2);
  for (int64_t n : kSizes) {
    for (float scale : {0.0f, 0.3f, 1.0f, 5.0f}) {
      for (float least : {0.0f, 0.03f, 1.0f}) {
        const std::vector<float> x = draw_logits(random, n, true);
        const float most = *std::ranges::max_element(x);
        Weights got(n), wanted(n);
        got.total = softmax_weights(x.data(), n, most, scale, least, got.values.data(), got.sums.data());
        wanted.total = softmax_weights_plain(x.data(), n, most, scale, least, wanted.values.data(), wanted.sums.data());
        expect_equal(got, wanted, fmt::format("n {}, scale {}, least {}", n, scale, least));
        EXPECT_EQ(softmax_weights(x.data(), n, most, scale, least, nullptr, nullptr), got.total);
      }
    }
  }
}

TEST(Sampling, FarLogitsHaveNoWeight) {
  const std::vector<float> x = {-3e38f, 3e38f, 0.0f};
  for (float scale : {0.0f, 1e-30f, 1.0f, 3e38f}) {
    Weights got(3);
    got.total = softmax_weights(x.data(), 3, 3e38f, scale, 0, got.values.data(), got.sums.data());
    EXPECT_EQ(got.values[1], 1.0f) << scale;
    EXPECT_EQ(got.values[0], scale == 0 ? 1.0f : 0.0f) << scale;
    EXPECT_TRUE(std::isfinite(got.total)) << scale;
  }
}

TEST(Sampling, KeepingEqualsPlain) {
  std::mt19937 random(3);
  for (int64_t n : kSizes) {
    for (int trial = 0; trial < 20; ++trial) {
      const std::vector<float> x = draw_logits(random, n, true);
      const auto id = static_cast<int64_t>(random() % static_cast<uint64_t>(n));
      Weights got(n), wanted(n);
      softmax_weights(x.data(), n, 12, 1, 0, got.values.data(), got.sums.data());
      wanted.values = got.values;
      const float logit = x[static_cast<size_t>(id)];
      got.total = keep_likeliest(x.data(), n, logit, id, got.values.data(), got.sums.data());
      wanted.total = keep_likeliest_plain(x.data(), n, logit, id, wanted.values.data(), wanted.sums.data());
      EXPECT_EQ(got.values, wanted.values) << n;
      expect_equal(got, wanted, fmt::format("n {}, id {}", n, id));
    }
  }
}

}  // namespace
}  // namespace engram
