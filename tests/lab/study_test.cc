#include "engram/lab/study/study.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "engram/lab/study/study_record.h"

namespace engram {
namespace {

const std::string kHead = "study = \"allocation\"\nscale = \"test\"\nrecipe = \"" ENGRAM_SOURCE_DIR
                          "/recipes/lab_smoke.toml\"\nseeds = 2\nbudgets = [1024, 4096]\n";

class StudyTest : public ::testing::Test {
 protected:
  StudyTest() {
    folder_ = std::filesystem::temp_directory_path() / ("engram_study_" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
  }
  ~StudyTest() override { std::filesystem::remove_all(folder_); }

  Result<std::vector<StudyRun>> expand(const std::string& groups, const std::vector<std::string>& overrides = {},
                                       int64_t seeds = 0) {
    ENGRAM_ASSIGN_OR_RETURN(study_, Study::parse(kHead + groups, "study.toml"));
    ExpandOptions options;
    options.overrides = overrides;
    options.seeds = seeds;
    options.data_directory = (folder_ / "data").string();
    options.weights_directory = "weights";
    return expand_study(Env::posix(), study_, options);
  }
  std::string error_of(const std::string& groups, const std::vector<std::string>& overrides = {}) {
    const auto runs = expand(groups, overrides);
    return runs.ok() ? "no error" : runs.status().message();
  }

  std::filesystem::path folder_;
  Study study_;
};

const std::string kRho = "[[group]]\nname = \"g\"\nrho = [1.0, 0.5]\n";

TEST_F(StudyTest, ExpandsBudgetsSeedsAndAxisInThatOrder) {
  const auto runs = expand(kRho);
  ASSERT_TRUE(runs.ok()) << runs.status().message();
  std::vector<std::string> names;
  for (const StudyRun& run : *runs) names.push_back(run.name);
  EXPECT_EQ(names,
            (std::vector<std::string>{"g-rho1-1.02k-s0", "g-rho0.5-1.02k-s0", "g-rho1-1.02k-s1", "g-rho0.5-1.02k-s1",
                                      "g-rho1-4.10k-s0", "g-rho0.5-4.10k-s0", "g-rho1-4.10k-s1", "g-rho0.5-4.10k-s1"}));
  EXPECT_EQ(runs->front().recipe.train.steps, 2);
  EXPECT_EQ(runs->back().recipe.train.steps, 8);
  EXPECT_EQ(runs->back().recipe.train.seed, 1);
  EXPECT_EQ(runs->back().recipe.data.seed, 1);
}

TEST_F(StudyTest, EveryModelHasTheBaselinesParameters) {
  const auto runs = expand(
      "[[group]]\nname = \"g\"\nrho = [1.0, 0.9, 0.75, 0.5, 0.35, 0.2]\n"
      "[[group]]\nname = \"c\"\ncontrol = \"capacity-1\"\n"
      "[[group]]\nname = \"s\"\ncontrol = \"shuffled-hash\"\nrho = 0.75\n");
  ASSERT_TRUE(runs.ok()) << runs.status().message();
  const ParameterCount base = runs->front().parameters;
  EXPECT_DOUBLE_EQ(base.rho, 1.0);
  for (const StudyRun& run : *runs) {
    EXPECT_NEAR(static_cast<double>(run.parameters.p_tot), static_cast<double>(base.p_tot),
                kTotalTolerance * base.p_tot)
        << run.name;
    EXPECT_NEAR(static_cast<double>(run.parameters.p_act), static_cast<double>(base.p_act),
                kActiveTolerance * base.p_act)
        << run.name;
    if (run.rho) {
      EXPECT_NEAR(run.parameters.rho, *run.rho, 0.03) << run.name;
    }
  }
}

TEST_F(StudyTest, CapacityOneKeepsAllExpertsAndOneRowAHead) {
  const auto runs = expand("[[group]]\nname = \"c\"\ncontrol = \"capacity-1\"\n");
  ASSERT_TRUE(runs.ok()) << runs.status().message();
  const StudyRun& run = runs->front();
  EXPECT_EQ(run.recipe.model.n_routed_experts, 40);
  EXPECT_EQ(run.recipe.model.memory, MemoryKind::kEngram);
  EXPECT_EQ(run.recipe.train.control, ControlKind::kCapacityOne);
  EXPECT_EQ(run.rows, 2 * 4);  // two layers, two orders of two heads
}

TEST_F(StudyTest, DenseHasNoSparseParameter) {
  const auto runs = expand("[[group]]\nname = \"d\"\ncontrol = \"dense\"\n");
  ASSERT_TRUE(runs.ok()) << runs.status().message();
  EXPECT_EQ(runs->front().parameters.p_sparse, 0);
  EXPECT_EQ(runs->front().recipe.model.ffn, FfnKind::kDense);
}

TEST_F(StudyTest, RowsAreSizedOnTheRecipesBackbone) {
  const auto runs = expand(
      "[[group]]\nname = \"e\"\nrows = [500, 5000]\nset = [\"model.memory=engram\"]\n"
      "[[group]]\nname = \"o\"\nrows = [500]\nset = [\"model.memory=over_encoding\", "
      "\"model.engram.layer_ids=[0]\"]\n");
  ASSERT_TRUE(runs.ok()) << runs.status().message();
  std::set<int> experts;
  for (const StudyRun& run : *runs) {
    EXPECT_NEAR(static_cast<double>(run.rows), run.name.find("5000") != std::string::npos ? 5000 : 500,
                25 + 0.02 * 5000)
        << run.name;
    experts.insert(run.recipe.model.n_routed_experts);
  }
  EXPECT_EQ(experts, std::set<int>{40});
}

// The allocation study with another rule is one key: the recipe's blocks, sizes and seeds need no change.
TEST_F(StudyTest, AnotherRuleIsOneKey) {
  for (const char* rule : {"qwen4exp", "longcat"}) {
    const auto runs = expand(kRho +
                                 "[[group]]\nname = \"one\"\ncontrol = \"capacity-1\"\n"
                                 "[[group]]\nname = \"r\"\nrows = [5000]\nset = [\"model.memory=engram\"]\n",
                             {fmt::format("model.engram.rule={}", rule)}, 1);
    ASSERT_TRUE(runs.ok()) << runs.status().message();
    for (const StudyRun& run : *runs) {
      const ModelConfig& model = run.recipe.model;
      EXPECT_STREQ(hash_rule_name(model.engram.rule), rule);
      EXPECT_TRUE(model.validate().ok()) << model.validate().message();
      const bool has_memory = run.name.find("rho1-") == std::string::npos;
      EXPECT_EQ(model.memory == MemoryKind::kEngram, has_memory) << run.name;
      if (!run.name.starts_with("r-")) continue;
      EXPECT_NEAR(static_cast<double>(run.rows), 5000, 100) << run.name;
    }
  }
}

TEST_F(StudyTest, RowsTimesGrowsTheTableAlone) {
  const auto runs =
      expand("[[group]]\nname = \"a\"\nrho = [0.5]\n[[group]]\nname = \"b\"\nrho = [0.5]\nrows_times = 3\n");
  ASSERT_TRUE(runs.ok()) << runs.status().message();
  const StudyRun &plain = runs->front(), &thrice = runs->back();
  EXPECT_NEAR(static_cast<double>(thrice.rows), 3.0 * static_cast<double>(plain.rows), 0.02 * thrice.rows);
  EXPECT_EQ(thrice.parameters.p_act, plain.parameters.p_act);
  EXPECT_EQ(thrice.recipe.model.n_routed_experts, plain.recipe.model.n_routed_experts);
}

TEST_F(StudyTest, SweepsAreEveryCombination) {
  const auto runs = expand(
      "[[group]]\nname = \"t\"\n[group.sweep]\n\"optimizer.muon_lr\" = [0.1, 0.2]\n\"optimizer.adamw_lr\" = [0.3, "
      "0.4]\n",
      {}, 1);
  ASSERT_TRUE(runs.ok()) << runs.status().message();
  ASSERT_EQ(runs->size(), 8u);  // four settings, two budgets
  std::set<std::pair<double, double>> settings;
  for (const StudyRun& run : *runs) settings.emplace(run.recipe.optimizer.muon_lr, run.recipe.optimizer.adamw_lr);
  EXPECT_EQ(settings.size(), 4u);
}

TEST_F(StudyTest, AGroupGoesOnFromTheWeightsOfAnother) {
  const std::string base = "[[group]]\nname = \"base\"\nrho = 0.5\nbudgets = [1024]\n";
  const std::string more = "[[group]]\nname = \"more\"\nrho = 0.5\nafter = \"base\"\nset = [\"data.batch_size=4\"]\n";
  const auto runs = expand(base + more);
  ASSERT_TRUE(runs.ok()) << runs.status().message();
  ASSERT_EQ(runs->size(), 6u);
  EXPECT_EQ(runs->at(0).after, "");
  EXPECT_EQ(runs->at(0).recipe.train.start_from, "");
  for (size_t i = 2; i < 6; ++i) {
    EXPECT_EQ(runs->at(i).after, fmt::format("base-rho0.5-1.02k-s{}", runs->at(i).seed));
    EXPECT_EQ(runs->at(i).recipe.train.start_from, "weights/" + runs->at(i).after);
  }
  EXPECT_EQ(runs->at(2).rows, runs->at(0).rows);

  EXPECT_NE(error_of(more + base).find("the name of an earlier group"), std::string::npos);
  EXPECT_NE(error_of(kRho + "[[group]]\nname = \"more\"\nafter = \"g\"\n").find("has 4 models and budgets"),
            std::string::npos);
  EXPECT_NE(error_of("[[group]]\nname = \"base\"\nbudgets = [1024]\ncontrol = \"capacity-1\"\n" + more)
                .find("is the control capacity-1"),
            std::string::npos);
  EXPECT_NE(error_of(base + more + "seeds = 3\n").find("got 3 seeds, wanted at most the 2"), std::string::npos);
}

TEST_F(StudyTest, WhatCannotBeSolvedIsAnError) {
  // The memory's own parameters cannot be paid by a shared expert of width 2.
  EXPECT_NE(error_of("[[group]]\nname = \"g\"\nrho = [0.9]\n", {"model.shared_expert_intermediate_size=2"})
                .find("rho = 0.9: the memory adds"),
            std::string::npos);
  EXPECT_NE(error_of(kRho, {"model.ffn=dense"}).find("rho = 0.5"), std::string::npos);
  EXPECT_NE(error_of("[[group]]\nname = \"g\"\nrows = [1]\nset = [\"model.memory=engram\"]\n").find("rows"),
            std::string::npos);
  EXPECT_NE(error_of("[[group]]\nname = \"g\"\nrho = [1.0]\nbudgets = [100]\n").find("one step of 512 tokens"),
            std::string::npos);
  EXPECT_NE(error_of("[[group]]\nname = \"g\"\nrho = [1.0]\ncontrol = \"shuffled-hash\"\n").find("no table"),
            std::string::npos);
}

TEST_F(StudyTest, BadFilesSayWhere) {
  const auto parse_error = [](const std::string& text) {
    const auto study = Study::parse(text, "study.toml");
    return study.ok() ? std::string("no error") : study.status().message();
  };
  EXPECT_NE(parse_error(kHead).find("[[group]]"), std::string::npos);
  EXPECT_NE(parse_error("study = \n").find("study.toml:1"), std::string::npos);
  EXPECT_NE(parse_error("group = 3\n").find("study"), std::string::npos);
  EXPECT_NE(parse_error(kHead + "sedes = 3\n" + kRho).find("did you mean seeds?"), std::string::npos);
  EXPECT_NE(parse_error(kHead + "[[group]]\nname = \"g\"\nrhos = 1\n").find("rhos"), std::string::npos);
  EXPECT_NE(parse_error(kHead + "[[group]]\nname = \"g\"\nrho = [1.5]\n").find("a number in [0, 1]"),
            std::string::npos);
  EXPECT_NE(parse_error(kHead + "[[group]]\nname = \"g\"\nrho = []\n").find("empty"), std::string::npos);
  EXPECT_NE(parse_error(kHead + "[[group]]\nname = \"g\"\nrho = [0.5, 0.5]\n").find("twice"), std::string::npos);
  EXPECT_NE(parse_error(kHead + kRho + "rows = [9]\n").find("one of them"), std::string::npos);
  EXPECT_NE(parse_error(kHead + kRho + "control = \"dense\"\n").find("own model"), std::string::npos);
  EXPECT_NE(parse_error(kHead + kRho + kRho).find("two groups"), std::string::npos);
  EXPECT_NE(parse_error(kHead + "[[group]]\nrho = 1\n").find("group[0].name: missing"), std::string::npos);
  EXPECT_NE(parse_error("study = \"../x\"\nscale = \"a\"\nrecipe = \"r\"\n" + kRho).find("small letters"),
            std::string::npos);
  EXPECT_NE(error_of("[[group]]\nname = \"g\"\nrho = 1\nset = [\"optimizer.muonlr=1\"]\n").find("muon_lr"),
            std::string::npos);
}

// What a run that has ended leaves, as far as make_record() reads it.
nlohmann::ordered_json record_of(const Study& study, const StudyRun& run, const std::string& output) {
  Env& env = Env::posix();
  std::string metrics;
  for (int64_t step = 1; step <= run.recipe.train.steps; ++step)
    metrics +=
        fmt::format("{{\"step\": {}, \"tokens\": {}, \"loss\": {}, \"seconds\": 1}}\n", step, step * 512, 5.0 / step);
  EXPECT_TRUE(env.create_directories(output).ok());
  EXPECT_TRUE(write_file_atomic(env, output + "/metrics.jsonl", metrics).ok());
  const nlohmann::json summary = {{"validation_loss", 2.5},
                                  {"bits_per_byte", 1.5},
                                  {"tokens", run.budget},
                                  {"seconds", 4.0},
                                  {"peak_rss_bytes", 1000}};
  auto record = make_record(env, study, run, output, summary);
  EXPECT_TRUE(record.ok()) << record.status().message();
  return std::move(record).value();
}

TEST_F(StudyTest, RecordsComeBackAndBelongToOneRecipe) {
  Env& env = Env::posix();
  const auto runs = expand(kRho);
  ASSERT_TRUE(runs.ok());
  const StudyRun& run = runs->back();
  const std::string results = (folder_ / "results").string();
  const auto folder = study_folder(env, results, study_);
  ASSERT_TRUE(folder.ok());
  ASSERT_TRUE(write_record(env, *folder, run.name, record_of(study_, run, (folder_ / "out").string())).ok());
  const auto records = read_records(env, *folder, "allocation");
  ASSERT_TRUE(records.ok()) << records.status().message();
  ASSERT_EQ(records->size(), 1u);
  EXPECT_EQ(records->at(run.name).at("budget"), 4096);
  EXPECT_DOUBLE_EQ(records->at(run.name).at("seconds_per_step"), 0.5);
  EXPECT_TRUE(check_records(*records, *runs, *folder).ok());
  const auto data = make_study_data(study_, "command", runs->size(), *records);
  EXPECT_EQ(data.at("runs").size(), 1u);
  EXPECT_TRUE(data.at("runs")[0].at("control").is_null());
  EXPECT_FALSE(data.at("runs")[0].contains("recipe"));

  std::vector<StudyRun> elsewhere = *runs;
  for (StudyRun& other : elsewhere) other.text = "another";
  EXPECT_NE(check_records(*records, elsewhere, *folder).message().find("another text"), std::string::npos);

  const auto on_a_gpu = expand(kRho, {"train.device=cuda", "train.table_placement=device"});
  ASSERT_TRUE(on_a_gpu.ok()) << on_a_gpu.status().message();
  EXPECT_TRUE(check_records(*records, *on_a_gpu, *folder).ok()) << "a study may go on elsewhere";

  const auto changed = expand(kRho, {"optimizer.muon_lr=0.5"});
  const Status status = check_records(*records, *changed, *folder);
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("optimizer.muon_lr: 0.5, was 0.008"), std::string::npos) << status.message();
}

TEST_F(StudyTest, TheNewestFolderOfTheStudyIsContinued) {
  Env& env = Env::posix();
  ASSERT_TRUE(expand(kRho).ok());
  const std::string results = (folder_ / "results2").string();
  for (const char* name : {"allocation-test-2025-01-02", "allocation-test-2026-01-02", "allocation-test-2026-01-02x",
                           "allocation-testing-2027-01-02"})
    ASSERT_TRUE(env.create_directories(results + "/" + name).ok());
  EXPECT_EQ(*study_folder(env, results, study_), results + "/allocation-test-2026-01-02");
}

TEST_F(StudyTest, DamagedRecordsAreNamed) {
  Env& env = Env::posix();
  const std::string folder = (folder_ / "damaged").string();
  ASSERT_TRUE(env.create_directories(folder + "/runs").ok());
  ASSERT_TRUE(write_file_atomic(env, folder + "/runs/a.json", "{\"study\": \"alloc").ok());
  EXPECT_NE(read_records(env, folder, "allocation").status().message().find("a.json"), std::string::npos);
  ASSERT_TRUE(write_file_atomic(env, folder + "/runs/a.json", "{}").ok());
  EXPECT_NE(read_records(env, folder, "allocation").status().message().find("val_loss"), std::string::npos);
}

}  // namespace
}  // namespace engram
