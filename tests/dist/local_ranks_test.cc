#include "engram/dist/local_ranks.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

namespace engram {
namespace {

class LocalRanks : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directory(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // A shell script's exit code, with what all ranks printed in output_.
  int run(int ranks, const std::string& script) {
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    const Result<int> code = run_local_ranks(ranks, {"/bin/sh", "-c", "cd " + folder_ + "; " + script}, stop_);
    output_ = testing::internal::GetCapturedStdout();
    errors_ = testing::internal::GetCapturedStderr();
    EXPECT_TRUE(code.ok()) << code.status().message();
    return code.ok() ? *code : -1;
  }

  std::string file(const std::string& name) const {
    std::stringstream text;
    text << std::ifstream(folder_ + "/" + name).rdbuf();
    return text.str();
  }

  const std::string folder_ = testing::TempDir() + "engram_ranks" + std::to_string(getpid());
  std::array<std::atomic<bool>, 2> stop_{};
  std::string output_, errors_;
};

TEST_F(LocalRanks, KnowWhoTheyAre) {
  setenv("OMPI_COMM_WORLD_RANK", "7", 1);  // of a launcher around us: not for the ranks
  EXPECT_EQ(run(3,
                "echo $RANK $WORLD_SIZE $LOCAL_RANK $LOCAL_WORLD_SIZE $MASTER_ADDR ${OMPI_COMM_WORLD_RANK-none} "
                "> $RANK; echo $MASTER_PORT > port$RANK"),
            0);
  unsetenv("OMPI_COMM_WORLD_RANK");
  for (const std::string rank : {"0", "1", "2"}) EXPECT_EQ(file(rank), rank + " 3 " + rank + " 3 127.0.0.1 none\n");
  EXPECT_EQ(file("port0"), file("port2"));
  EXPECT_GT(std::stoi(file("port0")), 0);
}

TEST_F(LocalRanks, OutputIsRankZerosAndOthersLinesHaveTheirNumber) {
  EXPECT_EQ(run(2, "echo out; echo err >&2; printf last"), 0);
  EXPECT_EQ(output_, "out\nlast");
  EXPECT_NE(errors_.find("err\n"), std::string::npos);
  for (const char* line : {"[rank 1] out\n", "[rank 1] err\n", "[rank 1] last\n"})
    EXPECT_NE(errors_.find(line), std::string::npos) << errors_;
  EXPECT_EQ(errors_.find("[rank 0]"), std::string::npos);
}

TEST_F(LocalRanks, LongLinesAndMuchOutput) {
  EXPECT_EQ(run(2, "test $RANK = 0 || { head -c 200000 /dev/zero | tr '\\0' x; echo; seq 50000; }"), 0);
  EXPECT_NE(errors_.find("[rank 1] 50000\n"), std::string::npos);
  EXPECT_EQ(std::count(errors_.begin(), errors_.end(), 'x'), 200000);
}

TEST_F(LocalRanks, TheFirstFailureIsTheExitCode) {
  EXPECT_EQ(
      run(3, "test $RANK = 1 && exit 5; while test ! -e go; do sleep .1; test $RANK = 0 && touch go; done; exit 1"), 5);
  EXPECT_EQ(run(2, "test $RANK = 1 && kill -9 $$; exit 0"), 128 + 9);
  EXPECT_EQ(errors_, "[rank 1] ended by signal 9\n");
}

TEST_F(LocalRanks, AProgramThatIsNotThere) {
  const Result<int> code = run_local_ranks(2, {"/no/such/program"}, stop_);
  ASSERT_TRUE(code.ok());
  EXPECT_EQ(*code, 127);
}

TEST_F(LocalRanks, AStopReachesEachRankOnce) {
  std::thread stopper([&] {  // when both have their handler
    while (!std::filesystem::exists(folder_ + "/ready0") || !std::filesystem::exists(folder_ + "/ready1"))
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    stop_[0] = true;
  });
  const int code = run(2,
                       "trap 'echo stop >> heard$RANK' TERM; touch ready$RANK; "
                       "while test ! -e heard$RANK; do sleep .05; done; sleep .5; exit 3");
  stopper.join();
  EXPECT_EQ(code, 3);
  EXPECT_EQ(file("heard0"), "stop\n");
  EXPECT_EQ(file("heard1"), "stop\n");
}

TEST_F(LocalRanks, ASecondStopKills) {
  stop_[0] = stop_[1] = true;
  EXPECT_EQ(run(2, "trap '' TERM; while :; do sleep .05; done") & 128, 128);
}

TEST_F(LocalRanks, EachHasASession) { EXPECT_EQ(run(2, "test $(cut -d' ' -f6 /proc/$$/stat) = $$"), 0); }

}  // namespace
}  // namespace engram
