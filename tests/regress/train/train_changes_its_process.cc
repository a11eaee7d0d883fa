// train() changed malloc, torch's threads and the handling of denormals of the process it was called in, and printed to
// its stderr; two runs could not be made in one process without one deciding the other's settings.
//
// Right: the library leaves the process as it is, says what it has to say to an observer, and can be called again.
#include <gtest/gtest.h>
#include <malloc.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <limits>
#include <thread>

#include "engram/train/trainer.h"
#include "tests/regress/train/tiny_recipe.h"

namespace engram {
namespace {

class Heard : public TrainObserver {
 public:
  void on_message(const std::string& line) override { lines.push_back(line); }
  void on_start(int64_t wanted, int64_t done) override { starts.emplace_back(wanted, done); }
  void on_step(double, double) override { ++steps; }
  void on_end() override { ++ends; }
  std::vector<std::string> lines;
  std::vector<std::pair<int64_t, int64_t>> starts;
  int steps = 0, ends = 0;
};

class TrainChangesItsProcess : public TinyRecipe {};

TEST_F(TrainChangesItsProcess, NeitherSettingsNorStderr) {
  at::set_num_threads(2);
  at::globalContext().setFlushDenormal(false);
  Heard heard;
  TrainOptions options;
  options.observer = &heard;
  testing::internal::CaptureStderr();
  testing::internal::CaptureStdout();
  const TrainSummary first = value_or_throw(train(Env::posix(), recipe("a", {"train.threads=1"}), options));
  const TrainSummary second = value_or_throw(train(Env::posix(), recipe("b", {"train.threads=3"}), {}));
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
  EXPECT_EQ(at::get_num_threads(), 2);
  volatile double tiny = std::numeric_limits<double>::min();
  EXPECT_GT(tiny / 2, 0.0);  // not flushed
  EXPECT_EQ(first.loss, second.loss);

  ASSERT_GE(heard.lines.size(), 4u);
  EXPECT_EQ(heard.lines[0].substr(0, 36), "3 steps of 32.0 tokens: 96.0 tokens,");  // the first line says epochs
  EXPECT_NE(heard.lines[0].find(" epochs of the "), std::string::npos) << heard.lines[0];
  EXPECT_EQ(heard.starts, (std::vector<std::pair<int64_t, int64_t>>{{3, 0}}));
  EXPECT_EQ(heard.steps, 3);
  EXPECT_EQ(heard.ends, 1);
  for (const std::string& line : heard.lines) EXPECT_EQ(line.find("--"), std::string::npos) << line;
}

TEST_F(TrainChangesItsProcess, TwoThreadsTrainAtOnce) {
  Result<TrainSummary> results[2] = {Status(StatusCode::kInternal, ""), Status(StatusCode::kInternal, "")};
  std::thread other([&] { results[1] = train(Env::posix(), recipe("b"), {}); });
  results[0] = train(Env::posix(), recipe("a"), {});
  other.join();
  for (const auto& result : results) {
    ASSERT_TRUE(result.ok()) << result.status().message();
    EXPECT_EQ(result->step, 3);
  }
}

// A run without validation text says so at its start, not by a missing number at its end.
TEST_F(TrainChangesItsProcess, NoValidationTextIsSaid) {
  value_or_throw(train(Env::posix(), recipe("a"), {}));
  const std::string data = output("a") + "/data/";
  std::string text = kTinyRecipe;
  text.replace(text.find("[data.synthetic]\ndocuments = 16\n"), 32,
               fmt::format("tokenizer = \"{0}tokenizer.json\"\ntrain = \"{0}train.tokens\"\n", data));
  const Recipe without = value_or_throw(Recipe::parse(text, "tiny.toml", {"train.output=" + output("b")}));
  Heard heard;
  TrainOptions options;
  options.observer = &heard;
  value_or_throw(train(Env::posix(), without, options));
  EXPECT_TRUE(std::any_of(heard.lines.begin(), heard.lines.end(),
                          [](const std::string& line) { return line.starts_with("warning: data.validation"); }));
}

}  // namespace
}  // namespace engram
