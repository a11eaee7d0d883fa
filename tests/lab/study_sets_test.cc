// Validation sets of a study: differences seed by seed, equal costs, verdicts, and the page.
#include "engram/lab/study/study_sets.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "engram/lab/study/study_plot.h"

namespace engram {
namespace {

using nlohmann::json;

json run_json(const char* group, int64_t seed, int64_t budget, double exact, double bits) {
  json run = {{"group", group},
              {"seed", seed},
              {"budget", budget},
              {"bits_per_byte", bits},
              {"tokens", budget},
              {"seconds", 2.0},
              {"peak_rss_bytes", 1 << 30},
              {"added_parameters", 5},
              {"flops", 10.0 * static_cast<double>(budget)}};
  for (const int dose : {1, 4, 16})
    run["validation_sets"]["told-" + std::to_string(dose)] = {
        {"tokens", 20}, {"documents", 10}, {"bits_per_byte", bits}, {"exact", exact * dose / 16}};
  run["validation_sets"]["prose"] = {{"tokens", 900}, {"documents", 9}, {"bits_per_byte", bits}, {"exact", 0.0}};
  return run;
}

json study_json() {
  json data = {{"study", "retrofit"},
               {"references", {"base", "lora"}},
               {"groups", {{{"name", "base"}}, {{"name", "lora"}}, {{"name", "engram"}}, {{"name", "full"}}}},
               {"runs", json::array()},
               {"hypotheses", json::array()}};
  // Seeds have other texts: the second is easier for every arm by .1, so that no difference shows it.
  for (const int64_t seed : {0, 1}) {
    const double easier = 0.1 * static_cast<double>(seed), noise = seed == 0 ? 0.001 : -0.001;
    data["runs"].push_back(run_json("base", seed, 0, 0.1 + easier, 3.0));
    data["runs"].push_back(run_json("lora", seed, 1000, 0.4 + easier + noise, 2.0));
    data["runs"].push_back(run_json("engram", seed, 1000, 0.6 + easier - noise, 2.01 + noise));
    for (const int64_t budget : {1000, 600}) data["runs"].push_back(run_json("full", seed, budget, 0.5 + easier, 2.2));
  }
  return data;
}

json hypothesis(const char* arm, const char* than, const char* measure, const char* expect, double margin = 0) {
  return {{"text", "t"},        {"arm", arm},       {"than", than},    {"sets", {"told-16"}},
          {"measure", measure}, {"expect", expect}, {"margin", margin}};
}

const nlohmann::ordered_json& value_of(const nlohmann::ordered_json& sets, const std::string& set, const char* measure,
                                       const std::string& arm) {
  for (const auto& value : sets.at("values"))
    if (value.at("set") == set && value.at("measure") == measure &&
        sets.at("arms").at(value.at("arm").get<size_t>()).at("label") == arm)
      return value;
  throw std::runtime_error("no " + set + " of " + arm);
}

TEST(StudySets, DifferencesArePairedBySeed) {
  const auto sets = value_or_throw(analyse_sets(study_json()));
  const auto& engram = value_of(sets, "told-16", "exact", "engram");
  EXPECT_NEAR(engram.at("mean").get<double>(), 0.65, 1e-9);
  ASSERT_EQ(engram.at("differences").size(), 2u);
  EXPECT_NEAR(engram.at("differences")[0].at("value").get<double>(), 0.5, 1e-9);
  EXPECT_NEAR(engram.at("differences")[1].at("value").get<double>(), 0.2, 1e-9);
  EXPECT_GT(engram.at("differences")[1].at("low").get<double>(), 0.1);  // the seeds' .1 is in no interval
  EXPECT_LT(engram.at("differences")[1].at("p_value").get<double>(), 0.05);
  EXPECT_EQ(value_of(sets, "told-16", "exact", "lora").at("differences").size(), 1u);
  EXPECT_THROW((void)value_of(sets, "prose", "exact", "lora"), std::runtime_error);  // a text has no exact answers
  EXPECT_NEAR(value_of(sets, kValidationText, "bits_per_byte", "base").at("mean").get<double>(), 3.0, 1e-9);
}

TEST(StudySets, EqualCostsTakeTheNearestBudget) {
  json data = study_json();
  for (json& run : data["runs"])
    if (run["group"] == "full") run["flops"] = run["flops"].get<double>() * 1.6;
  const auto sets = value_or_throw(analyse_sets(data));
  const auto& frame = sets.at("frames")[0];
  EXPECT_EQ(frame.at("to"), "lora");
  ASSERT_EQ(frame.at("arms").size(), 3u);  // the base costs nothing
  const auto& full = frame.at("arms")[2];
  EXPECT_EQ(sets.at("arms").at(full.at("arm").get<size_t>()).at("label"), "full, 600 tokens");
  EXPECT_NEAR(full.at("ratio").get<double>(), 0.96, 1e-9);
}

TEST(StudySets, HypothesesGetAVerdict) {
  json data = study_json();
  data["hypotheses"] = {hypothesis("engram", "lora", "exact", "more"),
                        hypothesis("engram", "lora", "exact", "less"),
                        hypothesis("engram", "lora", "exact", "not more", 0.01),
                        hypothesis("engram", "lora", "bits_per_byte", "not more", 0.1),
                        hypothesis("engram", "lora", "bits_per_byte", "less"),
                        hypothesis("engram", "nobody", "exact", "more")};
  const auto sets = value_or_throw(analyse_sets(data));
  std::vector<std::string> verdicts;
  for (const auto& judged : sets.at("hypotheses")) verdicts.push_back(judged.at("verdict"));
  EXPECT_EQ(verdicts, (std::vector<std::string>{"yes", "no", "no", "yes", "no", "no runs yet"}));
  for (json& run : data["runs"])  // a seed for which it is the other way round
    if (run["seed"] == 1 && run["group"] == "engram") run["validation_sets"]["told-16"]["exact"] = 0.2;
  EXPECT_EQ(value_or_throw(analyse_sets(data)).at("hypotheses")[0].at("verdict"), "not resolved");
}

TEST(StudySets, ThePageHasItsTablesAndTheFigureItsCurves) {
  json data = study_json();
  data["hypotheses"] = {hypothesis("engram", "lora", "exact", "more")};
  const auto sets = value_or_throw(analyse_sets(data));
  const auto page = sets_page(data, sets).json();
  std::vector<std::string> titles;
  for (const auto& block : page.at("blocks")) titles.push_back(block.value("title", ""));
  for (const char* title : {"What was expected", "told: exact answers", "told: bits per byte of the answers",
                            "other sets: bits per byte of the answers", "Equal training operations",
                            "Equal training seconds", "told: exact answers by dose", "What it costs"})
    EXPECT_EQ(std::count(titles.begin(), titles.end(), title), 1) << title;
  EXPECT_EQ(std::count(titles.begin(), titles.end(), "other sets: exact answers"), 0);
  const std::string svg = doses_svg("t", sets);
  EXPECT_NE(svg.find("told: exact answers"), std::string::npos);
  EXPECT_NE(svg.find("full, 600 tokens"), std::string::npos);
}

TEST(StudySets, WhatIsMissingIsNamed) {
  json data = study_json();
  EXPECT_TRUE(has_validation_sets(data));
  data["runs"][0].erase("budget");
  EXPECT_NE(analyse_sets(data).status().message().find("budget"), std::string::npos);
  EXPECT_FALSE(has_validation_sets(json::object()));
  data["runs"] = {{{"validation_sets", json::object()}}};
  EXPECT_FALSE(has_validation_sets(data));
}

}  // namespace
}  // namespace engram
