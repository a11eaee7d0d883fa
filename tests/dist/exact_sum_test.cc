#include "engram/dist/exact_sum.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <vector>

namespace engram {
namespace {

std::vector<float> draw(int count, int exponents) {
  std::mt19937_64 random(1);
  std::vector<float> values(count);
  for (float& value : values) {
    const int exponent = static_cast<int>(random() % (2 * exponents + 1)) - exponents;
    value = std::ldexp(static_cast<float>(random() >> 40) / (1 << 24), exponent) * (random() % 2 ? 1.f : -1.f);
  }
  return values;
}

ExactSum sum_of(const std::vector<float>& values) {
  ExactSum sum;
  sum.add_squares(values.data(), static_cast<int64_t>(values.size()));
  return sum;
}

TEST(ExactSum, IsTheSumOfSquares) {
  EXPECT_EQ(sum_of({}).value(), 0);
  EXPECT_EQ(sum_of({3, -4}).value(), 25);
  EXPECT_EQ(sum_of({4194303.0f}).value(), 4194303.0 * 4194303.0);
  EXPECT_EQ(sum_of({std::ldexp(1.f, -40)}).value(), std::ldexp(1.0, -80));
  EXPECT_EQ(sum_of({std::ldexp(1.f, -41)}).value(), 0);                              // below half of the last bit
  EXPECT_EQ(sum_of({1, std::ldexp(1.f, -40), std::ldexp(1.f, -40)}).words()[0], 2);  // a double would lose both
  const std::vector<float> values = draw(10000, 14);
  long double plain = 0;
  for (const float value : values) plain += static_cast<long double>(value) * value;
  EXPECT_NEAR(sum_of(values).value(), static_cast<double>(plain), 1e-12 * static_cast<double>(plain));
}

TEST(ExactSum, HasTheSameBitsInAnyOrderAndSplit) {
  std::vector<float> values = draw(5000, 16);
  const ExactSum::Words wanted = sum_of(values).words();
  std::mt19937_64 random(2);
  for (int round = 0; round < 5; ++round) {
    std::shuffle(values.begin(), values.end(), random);
    ExactSum parts[3];
    for (size_t i = 0; i < values.size();) {
      const size_t count = std::min<size_t>(values.size() - i, 1 + random() % 3000);
      parts[random() % 3].add_squares(values.data() + i, static_cast<int64_t>(count));
      i += count;
    }
    ExactSum::Words added{};
    for (const ExactSum& part : parts)
      for (int word = 0; word < ExactSum::kWords; ++word) added[word] += part.words()[word];
    EXPECT_EQ(ExactSum::from_words(added).words(), wanted);
    parts[0].add(parts[1]);
    parts[0].add(parts[2]);
    EXPECT_EQ(parts[0].words(), wanted);
  }
}

TEST(ExactSum, WhatDoesNotFitIsInfinite) {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const float value : {infinity, -infinity, nan, 8388608.0f, -3e38f}) {
    ExactSum sum = sum_of({1, value});
    EXPECT_EQ(sum.value(), infinity) << value;
    ExactSum::Words words = sum.words();
    for (int word = 0; word < ExactSum::kWords; ++word) words[word] += 1023 * sum.words()[word];
    EXPECT_EQ(ExactSum::from_words(words).value(), infinity);
    ExactSum other = sum_of({2});
    other.add(sum);
    EXPECT_EQ(other.value(), infinity);
  }
  EXPECT_EQ(sum_of(std::vector<float>(3, 4194303.0f)).value(), infinity);  // each fits, the sum is above 2^45
  EXPECT_EQ(sum_of(std::vector<float>(100000, 8388607.0f)).value(), infinity);
  EXPECT_LT(sum_of({4e6f, 4e6f}).value(), infinity);
}

}  // namespace
}  // namespace engram
