#include "engram/lab/study/study_fits.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engram/hash/numpy_random.h"

namespace engram {
namespace {

constexpr double kRho[] = {1.0, 0.9, 0.75, 0.5, 0.2};

double parabola(double x, double minimum, double curvature = 0.214) {
  return 4.07 + curvature * (x - minimum) * (x - minimum);
}

// The design of E1: 3 seeds at 5 shares. Every seed moves all its models alike, every run has noise of its own.
std::vector<SeedPoint> design(double minimum, double noise, NumpyRandom& random, double seed_effect = 0) {
  double moved[3];
  for (double& effect : moved) effect = seed_effect * random.normal();
  std::vector<SeedPoint> points;
  for (const double rho : kRho) {
    SeedPoint point{rho, {}};
    for (int64_t s = 0; s < 3; ++s) point.losses[s] = parabola(rho, minimum) + moved[s] + noise * random.normal();
    points.push_back(point);
  }
  return points;
}

std::vector<SeedPoint> design(double minimum, double noise, uint64_t seed) {
  NumpyRandom random(seed);
  return design(minimum, noise, random);
}

constexpr int kDraws = 4000;  // the share of 4,000 moves by .0034

void expect_covers(int held, const char* what) {
  const double share = static_cast<double>(held) / kDraws;
  EXPECT_GE(share, 0.93) << what;
  EXPECT_LE(share, 0.97) << what;
}

// The page prints 95 %: of many studies with E1's design and noise, 95 % must hold the truth. A bootstrap over three
// seeds held it in 82.
TEST(StudyFits, IntervalsHoldTheTruthAsOftenAsThePageSays) {
  NumpyRandom random(11);
  const double place = 0.51;
  const double truth_of_gain = parabola(1, place) - parabola(0.5, place);
  double truth_of_split = parabola(1, place);
  for (const double rho : kRho) truth_of_split -= rho == 1 ? 0 : parabola(rho, place) / 4;
  int minima = 0, gains = 0, splits = 0;
  for (int i = 0; i < kDraws; ++i) {
    const auto points = design(place, 0.02, random, 0.02);
    const MinimumFit fit = fit_minimum(points);
    minima += fit.convex && fit.low <= place && place <= fit.high;
    const Contrast gain = *paired_difference(points[0], points[3], *run_noise(points));
    gains += gain.low <= truth_of_gain && truth_of_gain <= gain.high;
    const Contrast split = first_against_rest(points)->difference;
    splits += split.low <= truth_of_split && truth_of_split <= split.high;
  }
  expect_covers(minima, "where the parabola is lowest");
  expect_covers(gains, "a gain over the baseline");
  expect_covers(splits, "pure experts against the mixes");
}

TEST(StudyFits, SlopeIntervalHoldsTheTruthAsOftenAsThePageSays) {
  NumpyRandom random(12);
  int held = 0;
  for (int i = 0; i < kDraws; ++i) {
    std::vector<SeedPoint> points;
    for (const double rows : {2e3, 6.3e3, 2e4, 6.3e4, 2e5}) {
      SeedPoint point{rows, {}};
      for (int64_t s = 0; s < 2; ++s) point.losses[s] = 5 - 0.05 * std::log10(rows) + 0.01 * random.normal();
      points.push_back(point);
    }
    const SlopeFit fit = fit_log_slope(points);
    held += fit.low <= -0.05 && -0.05 <= fit.high;
  }
  expect_covers(held, "nats per decade");
}

// Chance alone finds differences among equal models in 5 of 100 studies at p < .05.
TEST(StudyFits, EqualModelsDifferAsOftenAsChanceSays) {
  NumpyRandom random(13);
  int rest = 0, all = 0;
  for (int i = 0; i < kDraws; ++i) {
    std::vector<SeedPoint> points;
    for (const double rho : kRho) {
      points.push_back({rho, {}});
      for (int64_t s = 0; s < 3; ++s) points.back().losses[s] = 4 + 0.02 * random.normal();
    }
    const auto split = first_against_rest(points);
    rest += split->rest_p_value >= 0.05;
    all += split->all_p_value >= 0.05;
  }
  expect_covers(rest, "the rest");
  expect_covers(all, "all");
}

// E1 at 12 tokens per parameter, as results/allocation-cpu-small-2026-11-26 has it; the right sides were computed by a
// separate program from the same fifteen numbers.
TEST(StudyFits, TheStudyOfExpertsOrMemory) {
  const double losses[5][3] = {{4.1093, 4.1279, 4.1547},
                               {4.1045, 4.0814, 4.0950},
                               {4.1004, 4.0676, 4.0815},
                               {4.1107, 4.0566, 4.0673},
                               {4.0859, 4.0966, 4.0912}};
  std::vector<SeedPoint> points;
  for (size_t i = 0; i < 5; ++i) points.push_back({kRho[i], {{0, losses[i][0]}, {1, losses[i][1]}, {2, losses[i][2]}}});
  const Noise noise = *run_noise(points);
  EXPECT_EQ(noise.degrees, 8);
  EXPECT_NEAR(noise.deviation, 0.01889, 5e-5);
  const FirstAgainstRest split = *first_against_rest(points);
  EXPECT_NEAR(split.difference.value, 0.0441, 1e-4);
  EXPECT_NEAR(split.difference.high - split.difference.value, 0.0281, 1e-4);
  EXPECT_NEAR(split.difference.p_value, 0.0068, 1e-4);
  EXPECT_NEAR(split.rest_p_value, 0.737, 1e-3);
  const Contrast arms = *paired_difference(points[4], points[3], noise);
  EXPECT_NEAR(arms.value, 0.0131, 1e-4);
  EXPECT_NEAR(arms.high - arms.value, 0.0356, 1e-4);
  const MinimumFit fit = fit_minimum(points);
  EXPECT_NEAR(fit.x, 0.5135, 1e-3);
  EXPECT_FALSE(fit.low_bounded);
  EXPECT_TRUE(fit.high_bounded);
  EXPECT_NEAR(fit.high, 0.60, 0.01);
}

TEST(FitMinimum, ExactDataGiveTheExactMinimum) {
  const MinimumFit fit = fit_minimum(design(0.7, 0, 1));
  EXPECT_TRUE(fit.convex);
  EXPECT_TRUE(fit.inside);
  EXPECT_NEAR(fit.x, 0.7, 1e-6);
  EXPECT_NEAR(fit.loss, 4.07, 1e-9);
  EXPECT_NEAR(fit.low, 0.7, 1e-4);
  EXPECT_NEAR(fit.high, 0.7, 1e-4);
}

TEST(FitMinimum, MoreNoiseMakesAWiderInterval) {
  const MinimumFit quiet = fit_minimum(design(0.65, 0.001, 7)), loud = fit_minimum(design(0.65, 0.01, 7));
  EXPECT_LT(quiet.high - quiet.low, loud.high - loud.low);
}

TEST(FitMinimum, NoMinimumInsideIsSaid) {
  const MinimumFit outside = fit_minimum(design(-0.3, 0, 1));
  EXPECT_FALSE(outside.inside);
  EXPECT_DOUBLE_EQ(outside.x, 0.2);
  EXPECT_FALSE(outside.low_bounded);
  std::vector<SeedPoint> concave = design(0.5, 0, 1);
  for (SeedPoint& point : concave)
    for (auto& [seed, loss] : point.losses) loss = -loss;
  EXPECT_FALSE(fit_minimum(concave).convex);
}

TEST(FitMinimum, OneSeedHasNoInterval) {
  std::vector<SeedPoint> points;
  for (const double rho : kRho) points.push_back({rho, {{0, parabola(rho, 0.5)}}});
  const MinimumFit fit = fit_minimum(points);
  EXPECT_NEAR(fit.x, 0.5, 1e-6);
  EXPECT_FALSE(fit.has_interval);
  EXPECT_FALSE(run_noise(points).has_value());
}

TEST(FitLogSlope, FindsTheSlopePerDecade) {
  std::vector<SeedPoint> points;
  for (const double rows : {1e3, 1e4, 1e5}) points.push_back({rows, {{0, 5 - 0.08 * std::log10(rows)}}});
  const SlopeFit fit = fit_log_slope(points);
  EXPECT_NEAR(fit.coefficients[1], -0.08, 1e-9);
  EXPECT_NEAR(fit.r_squared, 1, 1e-9);
  EXPECT_FALSE(fit.has_interval);
}

// A study under way: seed 2 is there for two of three models. What seeds add is taken out all the same.
TEST(RunNoise, SeedsMayBeMissing) {
  std::vector<SeedPoint> points = {
      {1, {{0, 4.0}, {1, 5.0}, {2, 6.0}}}, {2, {{0, 3.9}, {1, 4.9}, {2, 5.9}}}, {3, {{0, 3.5}, {1, 4.5}}}};
  const Noise noise = *run_noise(points);
  EXPECT_NEAR(noise.deviation, 0, 1e-7);
  EXPECT_EQ(noise.degrees, 3);
  EXPECT_NEAR(paired_difference(points[0], points[2], noise)->value, 0.5, 1e-9);
}

TEST(FitPolynomial, FindsItsOwnCoefficients) {
  const std::vector<double> x = {0, 1, 2, 5}, y = {3, 3 + 2 - 1, 3 + 4 - 4, 3 + 10 - 25};
  const auto c = fit_polynomial(x, y, 2);
  ASSERT_EQ(c.size(), 3u);
  EXPECT_NEAR(c[0], 3, 1e-9);
  EXPECT_NEAR(c[1], 2, 1e-9);
  EXPECT_NEAR(c[2], -1, 1e-9);
  EXPECT_TRUE(fit_polynomial(std::vector<double>{1, 1, 2}, std::vector<double>{1, 2, 3}, 2).empty());
}

}  // namespace
}  // namespace engram
