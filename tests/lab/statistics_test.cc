#include "engram/lab/pages/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "engram/lab/pages/page.h"

namespace engram {
namespace {

TEST(Statistics, EstimateOfKnownValues) {
  const Estimate found = estimate(std::vector<double>{1, 2, 3, 6});
  EXPECT_DOUBLE_EQ(found.mean, 3);
  EXPECT_NEAR(found.error, std::sqrt(14.0 / 3 / 4), 1e-12);
  EXPECT_EQ(estimate(std::vector<double>{5}).error, 0);
}

TEST(Statistics, WilsonOfPublishedValues) {
  const Interval found = wilson_interval(81, 263);  // Newcombe 1998, table I
  EXPECT_NEAR(found.low, 0.2553, 5e-5);
  EXPECT_NEAR(found.high, 0.3662, 5e-5);
  EXPECT_EQ(wilson_interval(0, 20).low, 0);
  EXPECT_NEAR(wilson_interval(0, 20).high, 0.1611, 5e-5);
}

// Tables of t and F (Fisher and Yates), and F with one degree of freedom is t squared.
TEST(Statistics, StudentAndFisherOfPublishedValues) {
  EXPECT_NEAR(student_t_quantile(1), 12.7062, 1e-4);
  EXPECT_NEAR(student_t_quantile(2), 4.3027, 1e-4);
  EXPECT_NEAR(student_t_quantile(8), 2.3060, 1e-4);
  EXPECT_NEAR(student_t_quantile(10), 2.2281, 1e-4);
  EXPECT_NEAR(student_t_quantile(30, 0.01), 2.7500, 1e-4);
  EXPECT_NEAR(student_t_p_value(0, 5), 1, 1e-12);
  EXPECT_NEAR(f_p_value(3.8379, 4, 8), 0.05, 1e-4);
  EXPECT_NEAR(f_p_value(6.5523, 3, 10), 0.01, 1e-5);
  EXPECT_NEAR(f_p_value(2.5 * 2.5, 1, 7), student_t_p_value(2.5, 7), 1e-12);
}

TEST(Statistics, PercentilesLieBetweenNeighbours) {
  const std::vector<double> values = {1, 2, 4, 8};
  EXPECT_DOUBLE_EQ(percentile(values, 0), 1);
  EXPECT_DOUBLE_EQ(percentile(values, 0.5), 3);
  EXPECT_DOUBLE_EQ(percentile(values, 0.9), 4 + 0.7 * 4);  // numpy.percentile([1, 2, 4, 8], 90)
  EXPECT_DOUBLE_EQ(percentile(values, 1), 8);
  EXPECT_DOUBLE_EQ(percentile(std::vector<double>{5}, 0.3), 5);
}

TEST(Statistics, AreaCountsPairs) {
  EXPECT_DOUBLE_EQ(area_under_roc(std::vector<double>{3, 2}, std::vector<double>{1, 2}), 0.875);
  EXPECT_DOUBLE_EQ(area_under_roc(std::vector<double>{1, 1}, std::vector<double>{1, 1}), 0.5);
}

TEST(Statistics, BootstrapCoversAndRepeats) {
  std::vector<double> values(200);
  std::iota(values.begin(), values.end(), 0.0);
  const auto mean = [&](std::span<const int64_t> chosen) {
    double sum = 0;
    for (int64_t i : chosen) sum += values[static_cast<size_t>(i)];
    return std::vector<double>{sum / static_cast<double>(chosen.size()), std::nan("")};
  };
  const auto found = bootstrap_intervals(200, 2000, 3, mean);
  const double error = estimate(values).error;
  EXPECT_NEAR(found[0].low, 99.5 - 1.96 * error, 0.2 * error);
  EXPECT_NEAR(found[0].high, 99.5 + 1.96 * error, 0.2 * error);
  EXPECT_TRUE(std::isnan(found[1].low));
  EXPECT_EQ(bootstrap_intervals(200, 2000, 3, mean)[0].low, found[0].low);
}

TEST(Statistics, NumbersAsText) {
  EXPECT_EQ(fixed_text(-0.0004), "0.000") << "rounded to zero, it has no sign";
  EXPECT_EQ(fixed_text(-0.0006), "-0.001");
  EXPECT_EQ(fixed_text(10, 0), "10");
  EXPECT_EQ(fixed_text(-0.2, 0), "0");
  EXPECT_EQ(fixed_text(std::nan("")), "-");
  EXPECT_EQ(with_error(-0.00001, 0.5), "0.000 +- 0.500");
}

}  // namespace
}  // namespace engram
