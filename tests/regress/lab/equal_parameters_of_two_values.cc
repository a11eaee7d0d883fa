// Seen: "P_tot equal" meant 0.2 % in model/parameters.h and 0.5 % for a study's controls; a study whose run has no
// control was "" in a header and "none" in the code. Right: one constant, and the page states what was reached.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "engram/lab/study/equal_parameters.h"
#include "engram/lab/study/study.h"
#include "engram/lab/study/study_report.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

TEST(EqualParameters, EveryRunThatPromisesThemKeepsOnePromise) {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("engram_equal_" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  const auto study = Study::parse(
      "study = \"allocation\"\nscale = \"test\"\nrecipe = \"" ENGRAM_SOURCE_DIR
      "/recipes/lab_smoke.toml\"\nseeds = 1\nbudgets = [1024]\n"
      "[[group]]\nname = \"g\"\nrho = [1.0, 0.75, 0.5]\n[[group]]\nname = \"c\"\ncontrol = \"capacity-1\"\n"
      "[[group]]\nname = \"d\"\ncontrol = \"dense\"\n[[group]]\nname = \"more\"\nrho = 0.75\nrows_times = 3\n",
      "study.toml");
  ASSERT_TRUE(study.ok()) << study.status().message();
  ExpandOptions options;
  options.data_directory = (folder / "data").string();
  const auto runs = expand_study(Env::posix(), *study, options);
  std::filesystem::remove_all(folder);
  ASSERT_TRUE(runs.ok()) << runs.status().message();
  int promises = 0;
  for (const StudyRun& run : *runs) {
    const bool promised = run.group == "g" || run.group == "c";
    ASSERT_EQ(run.base.has_value(), promised) << run.name;
    if (!promised) continue;
    ++promises;
    EXPECT_DOUBLE_EQ(run.base->rho, 1.0);
    const auto near = [](int64_t got, int64_t wanted, double tolerance) {
      return std::abs(static_cast<double>(got - wanted)) <= tolerance * static_cast<double>(wanted);
    };
    EXPECT_TRUE(near(run.parameters.p_tot, run.base->p_tot, kTotalTolerance)) << run.name;
    EXPECT_TRUE(near(run.parameters.p_act, run.base->p_act, kActiveTolerance)) << run.name;
  }
  EXPECT_EQ(promises, 4);
}

TEST(EqualParameters, NoControlHasOneName) {
  EXPECT_STREQ(study_control_name(StudyControl::kNone), "none");
  EXPECT_STREQ(study_control_name(StudyControl::kDense), "dense");
}

TEST(EqualParameters, PageStatesWhatWasReached) {
  Json data = {{"groups", {{{"name", "g"}, {"axis", "rho"}}}},
               {"runs",
                {{{"group", "g"}, {"rho", 1.0}, {"p_tot", 1000}, {"p_act", 100}},
                 {{"group", "g"}, {"rho", 0.5}, {"p_tot", 1001}, {"p_act", 100}},
                 {{"group", "dense"}, {"rho", 1.0}, {"p_tot", 100}, {"p_act", 100}}}}};
  // Records of before p_tot_wanted: against the run at rho = 1, on the axis alone.
  EXPECT_NE(equal_parameters_text(data).find("P_tot came within 0.100 % and P_act within 0.000 %"), std::string::npos)
      << equal_parameters_text(data);
  EXPECT_NE(equal_parameters_text(data).find("promised are 0.2 % and 0.5 %"), std::string::npos);
  for (Json& run : data["runs"]) {
    run["p_tot_wanted"] = 1000;
    run["p_act_wanted"] = run.at("group") == "g" ? Json(101) : Json();
  }
  EXPECT_NE(equal_parameters_text(data).find("P_act within 0.990 %"), std::string::npos) << equal_parameters_text(data);
  for (Json& run : data["runs"]) run["p_tot_wanted"] = nullptr;
  EXPECT_EQ(equal_parameters_text(data), "");
}

}  // namespace
}  // namespace engram
