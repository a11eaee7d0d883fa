// Drawn numbers, and how near two results are, for the tests of kernels.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace engram {

using Values = std::vector<float>;

class Draw {
 public:
  explicit Draw(uint32_t seed) : generator_(seed) {}
  Values values(int64_t size, float scale = 1) {
    std::normal_distribution<float> normal(0, scale);
    Values out(static_cast<size_t>(size));
    for (float& v : out) v = normal(generator_);
    return out;
  }
  int64_t below(int64_t bound) { return std::uniform_int_distribution<int64_t>(0, bound - 1)(generator_); }

 private:
  std::mt19937 generator_;
};

inline void expect_near(const Values& got, const Values& wanted, double tolerance, const std::string& what) {
  ASSERT_EQ(got.size(), wanted.size()) << what;
  double scale = 1e-3, worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    scale = std::max(scale, std::fabs(double{wanted[i]}));
    worst = std::max(worst, std::fabs(double{got[i]} - wanted[i]));
  }
  EXPECT_LE(worst, tolerance * scale) << what;
}

inline Values filled(int64_t size, float value) { return Values(static_cast<size_t>(size), value); }

}  // namespace engram
