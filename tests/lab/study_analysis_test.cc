#include "engram/lab/study_analysis.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <regex>

#include "engram/core/numpy_random.h"
#include "engram/lab/study_plot.h"

namespace engram {
namespace {

double parabola(double x, double minimum, double curvature = 0.3) {
  return 4.2 + curvature * (x - minimum) * (x - minimum);
}

std::vector<SeedPoint> noisy(double minimum, double noise, uint64_t seed, int seeds = 3) {
  NumpyRandom random(seed);
  std::vector<SeedPoint> points;
  for (const double rho : {1.0, 0.9, 0.75, 0.5, 0.35, 0.2}) {
    SeedPoint point{rho, {}};
    for (int i = 0; i < seeds; ++i) point.losses.push_back(parabola(rho, minimum) + noise * random.normal());
    points.push_back(point);
  }
  return points;
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

TEST(FitMinimum, ExactDataGiveTheExactMinimum) {
  const MinimumFit fit = fit_minimum(noisy(0.7, 0, 1));
  EXPECT_TRUE(fit.convex);
  EXPECT_TRUE(fit.inside);
  EXPECT_NEAR(fit.x, 0.7, 1e-6);
  EXPECT_NEAR(fit.loss, 4.2, 1e-9);
  EXPECT_NEAR(fit.low, 0.7, 1e-6);
  EXPECT_NEAR(fit.high, 0.7, 1e-6);
}

// A percentile bootstrap of three seeds is narrower than it should be, but it must hold the truth most of the time.
TEST(FitMinimum, TheIntervalMostlyHoldsTheTruth) {
  int held = 0;
  const int tries = 100;
  for (int i = 0; i < tries; ++i) {
    const MinimumFit fit = fit_minimum(noisy(0.65, 0.01, static_cast<uint64_t>(100 + i)), 400);
    EXPECT_LE(fit.low, fit.high);
    held += fit.low <= 0.65 && 0.65 <= fit.high;
  }
  EXPECT_GE(held, 75);
}

TEST(FitMinimum, MoreNoiseMakesAWiderInterval) {
  const MinimumFit quiet = fit_minimum(noisy(0.65, 0.002, 7)), loud = fit_minimum(noisy(0.65, 0.02, 7));
  EXPECT_LT(quiet.high - quiet.low, loud.high - loud.low);
}

TEST(FitMinimum, NoMinimumInsideIsSaid) {
  const MinimumFit outside = fit_minimum(noisy(-0.3, 0, 1));
  EXPECT_FALSE(outside.inside);
  EXPECT_DOUBLE_EQ(outside.x, 0.2);
  std::vector<SeedPoint> concave = noisy(0.5, 0, 1);
  for (SeedPoint& point : concave)
    for (double& loss : point.losses) loss = -loss;
  EXPECT_FALSE(fit_minimum(concave).convex);
}

TEST(FitLogSlope, FindsTheSlopePerDecade) {
  std::vector<SeedPoint> points;
  for (const double rows : {1e3, 1e4, 1e5}) points.push_back({rows, {5 - 0.08 * std::log10(rows)}});
  const SlopeFit fit = fit_log_slope(points);
  EXPECT_NEAR(fit.coefficients[1], -0.08, 1e-9);
  EXPECT_NEAR(fit.r_squared, 1, 1e-9);
}

nlohmann::json run_json(const char* group, double rho, int64_t seed, double loss) {
  return {{"group", group},       {"rho", rho}, {"seed", seed},      {"budget", 1000},         {"val_loss", loss},
          {"bits_per_byte", 1.0}, {"rows", 10}, {"train_loss", 1.0}, {"seconds_per_step", 0.1}};
}

TEST(AnalyseStudy, GainsArePairedBySeed) {
  nlohmann::json data = {{"groups", {{{"name", "a"}, {"axis", "rho"}, {"baseline", "a"}}}},
                         {"runs", nlohmann::json::array()}};
  // Seeds differ by 1 nat, the gain is .1 and .3 all the same.
  data["runs"] = {run_json("a", 1.0, 0, 4.0), run_json("a", 1.0, 1, 5.0), run_json("a", 0.5, 0, 3.9),
                  run_json("a", 0.5, 1, 4.7)};
  const auto analysis = analyse_study(data);
  ASSERT_TRUE(analysis.ok()) << analysis.status().message();
  ASSERT_EQ(analysis->at("points").size(), 2u);
  const auto& half = analysis->at("points")[1];
  EXPECT_DOUBLE_EQ(half.at("x"), 0.5);
  EXPECT_NEAR(half.at("gain").get<double>(), 0.2, 1e-9);
  EXPECT_NEAR(half.at("gain_deviation").get<double>(), std::sqrt(0.02), 1e-9);
  EXPECT_FALSE(analysis->at("points")[0].contains("gain"));
}

// Read back from the picture: every mean stands where the axis says, controls at their own share, text escaped.
TEST(StudySvg, PointsStandAtTheirLossAndShare) {
  nlohmann::json data = {{"groups",
                          {{{"name", "a & b"}, {"axis", "rho"}, {"baseline", "a & b"}},
                           {{"name", "one row"}, {"axis", "none"}, {"baseline", "a & b"}}}},
                         {"runs", nlohmann::json::array()}};
  EXPECT_EQ(study_svg("t", value_or_throw(analyse_study(data))), "");
  const std::vector<std::pair<double, double>> points = {{1.0, 4.0}, {0.8, 3.9}, {0.6, 3.8}, {0.2, 4.2}};
  for (const auto& [rho, loss] : points) data["runs"].push_back(run_json("a & b", rho, 0, loss));
  data["runs"].push_back(run_json("one row", 1.0, 0, 4.1));
  data["runs"].back()["control"] = "capacity-1";
  const std::string svg = study_svg("a < b", value_or_throw(analyse_study(data)));
  EXPECT_NE(svg.find("a &lt; b"), std::string::npos);
  EXPECT_NE(svg.find("one row"), std::string::npos);
  std::vector<std::pair<double, double>> drawn;
  const std::regex circle("<circle cx=\"([0-9.]+)\" cy=\"([0-9.]+)\" r=\"4\"");
  for (std::sregex_iterator it(svg.begin(), svg.end(), circle), end; it != end; ++it)
    drawn.emplace_back(std::stod((*it)[1]), std::stod((*it)[2]));
  ASSERT_EQ(drawn.size(), points.size());
  const double per_rho = (drawn[0].first - drawn[3].first) / 0.8, per_nat = (drawn[3].second - drawn[2].second) / 0.4;
  EXPECT_GT(per_rho, 0);
  EXPECT_LT(per_nat, 0);  // a higher loss stands higher
  for (size_t i = 0; i < points.size(); ++i) {
    EXPECT_NEAR(drawn[i].first, drawn[0].first - per_rho * (1.0 - points[i].first), 0.2);
    EXPECT_NEAR(drawn[i].second, drawn[0].second + per_nat * (points[i].second - 4.0), 0.2);
  }
}

TEST(AnalyseStudy, SweepsStandInTheOrderOfTheirNumbers) {
  nlohmann::json data = {{"groups", {{{"name", "place"}, {"axis", "sweep"}, {"baseline", "place"}}}},
                         {"runs", nlohmann::json::array()}};
  for (const int block : {11, 2, 0, 5}) {
    data["runs"].push_back(run_json("place", 1, 0, 4));
    data["runs"].back()["sweep"] = {{"model.engram.layer_ids", fmt::format("[{}]", block)}};  // as records have it
  }
  const auto analysis = value_or_throw(analyse_study(data));
  std::vector<std::string> labels;
  for (const auto& point : analysis.at("points")) labels.push_back(point.at("label"));
  EXPECT_EQ(labels, (std::vector<std::string>{"layer_ids [0]", "layer_ids [2]", "layer_ids [5]", "layer_ids [11]"}));
}

TEST(AnalyseStudy, WhatIsMissingIsNamed) {
  EXPECT_FALSE(analyse_study(nlohmann::json::object()).ok());
  nlohmann::json data = {{"groups", {{{"name", "a"}, {"axis", "rho"}, {"baseline", "a"}}}},
                         {"runs", {run_json("a", 1, 0, 4)}}};
  data["runs"][0].erase("val_loss");
  EXPECT_NE(analyse_study(data).status().message().find("val_loss"), std::string::npos);
}

}  // namespace
}  // namespace engram
