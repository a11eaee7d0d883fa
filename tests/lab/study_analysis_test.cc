#include "engram/lab/study/study_analysis.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <regex>

#include "engram/lab/study/study_plot.h"

namespace engram {
namespace {

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
  // Two models, two seeds: one degree of freedom, so t = 12.706; one run's noise is .1 nats.
  EXPECT_NEAR(half.at("gain_interval")[0].get<double>(), 0.2 - 12.7062 * 0.1, 1e-4);
  EXPECT_NEAR(half.at("gain_interval")[1].get<double>(), 0.2 + 12.7062 * 0.1, 1e-4);
}

// E1 is fitted twice: on all targets and on those that repeat nothing. Here the two have other gains and other minima.
TEST(AnalyseStudy, TheRestOfTheTargetsHasFitsOfItsOwn) {
  nlohmann::json data = {{"groups", {{{"name", "a"}, {"axis", "rho"}, {"baseline", "a"}}}},
                         {"runs", nlohmann::json::array()}};
  for (const double rho : {1.0, 0.75, 0.5, 0.2}) {
    for (const int64_t seed : {0, 1}) {
      const double noise = (rho == 0.5) == (seed == 0) ? 0.001 : -0.001;
      auto run = run_json("a", rho, seed, 4 + (rho - 0.7) * (rho - 0.7) + noise);
      run["val_parts"] = {{"repeats", {{"tokens", 10}, {"loss", 1.0}}},
                          {"rest", {{"tokens", 90}, {"loss", 4 + (rho - 0.4) * (rho - 0.4) + noise}}}};
      data["runs"].push_back(run);
    }
  }
  const auto analysis = value_or_throw(analyse_study(data));
  ASSERT_EQ(analysis.at("minima").size(), 2u);
  EXPECT_EQ(analysis.at("minima")[0].at("targets"), "all");
  EXPECT_NEAR(analysis.at("minima")[0].at("rho").get<double>(), 0.7, 0.01);
  EXPECT_EQ(analysis.at("minima")[1].at("targets"), "rest");
  EXPECT_NEAR(analysis.at("minima")[1].at("rho").get<double>(), 0.4, 0.01);
  const auto& half = analysis.at("points")[2];
  EXPECT_DOUBLE_EQ(half.at("repeats").at("loss").get<double>(), 1.0);
  EXPECT_NEAR(half.at("rest").at("gain").get<double>(), 0.36 - 0.01, 1e-9);
  EXPECT_TRUE(half.at("rest").contains("gain_interval"));
  data["runs"][3].erase("val_parts");  // an old record among them
  EXPECT_EQ(value_or_throw(analyse_study(data)).at("minima").size(), 1u);
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
