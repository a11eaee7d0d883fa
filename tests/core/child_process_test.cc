#include "engram/core/child_process.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

namespace engram {
namespace {

std::string log_path(const std::string& name) {
  return testing::TempDir() + "engram_" + name + std::to_string(getpid()) + ".log";
}

int wait_for(ChildProcess& child) {
  for (int i = 0; i < 2000; ++i) {
    if (const auto code = child.poll()) return *code;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return -1;
}

TEST(ChildProcess, GivesExitCodeAndOutput) {
  const std::string log = log_path("exit");
  auto child = ChildProcess::start({"/bin/sh", "-c", "echo out; echo err >&2; exit 7"}, log);
  ASSERT_TRUE(child.ok());
  EXPECT_EQ(wait_for(*child), 7);
  EXPECT_EQ(*child->poll(), 7);  // stays known
  std::stringstream text;
  text << std::ifstream(log).rdbuf();
  EXPECT_EQ(text.str(), "out\nerr\n");
  std::filesystem::remove(log);
}

TEST(ChildProcess, MissingProgramEndsWith127) {
  const std::string log = log_path("missing");
  auto child = ChildProcess::start({"/no/such/program"}, log);
  ASSERT_TRUE(child.ok());
  EXPECT_EQ(wait_for(*child), 127);
  std::filesystem::remove(log);
}

TEST(ChildProcess, TerminateAndSignals) {
  const std::string log = log_path("term");
  auto child = ChildProcess::start({"/bin/sh", "-c", "exec sleep 60"}, log);
  ASSERT_TRUE(child.ok());
  EXPECT_FALSE(child->poll().has_value());
  child->terminate();
  EXPECT_EQ(wait_for(*child), 128 + 15);
  std::filesystem::remove(log);
}

TEST(ChildProcess, DestructionStopsTheChild) {
  const std::string log = log_path("destroy");
  { ASSERT_TRUE(ChildProcess::start({"/bin/sh", "-c", "exec sleep 60"}, log).ok()); }  // returns only when it ended
  std::filesystem::remove(log);
}

TEST(ChildProcess, HasItsOwnVariablesOutputAndSession) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  setenv("ENGRAM_TEST_GONE", "1", 1);
  setenv("ENGRAM_TEST_CHANGED", "old", 1);
  setenv("ENGRAM_TEST_KEPT", "kept", 1);
  ChildOptions options = {.output = ends[1], .errors = ends[1], .variables = {}, .own_session = true};
  options.variables = {{"ENGRAM_TEST_GONE", std::nullopt}, {"ENGRAM_TEST_CHANGED", "new"}, {"ENGRAM_TEST_NEW", "a=b"}};
  const std::string script =
      "echo ${ENGRAM_TEST_GONE-none} $ENGRAM_TEST_CHANGED $ENGRAM_TEST_NEW $ENGRAM_TEST_KEPT; "
      "test $(cut -d' ' -f6 /proc/$$/stat) = $$ && echo own >&2";
  auto child = ChildProcess::start({"/bin/sh", "-c", script}, options);
  ASSERT_TRUE(child.ok());
  EXPECT_EQ(wait_for(*child), 0);
  char text[100] = {};
  EXPECT_GT(read(ends[0], text, sizeof text - 1), 0);
  EXPECT_STREQ(text, "none new a=b kept\nown\n");
  close(ends[0]);
  close(ends[1]);
}

TEST(ChildProcess, UnwritableLogIsAnError) {
  const auto child = ChildProcess::start({"/bin/true"}, "/no/such/folder/log");
  ASSERT_FALSE(child.ok());
  EXPECT_NE(child.status().message().find("/no/such/folder/log"), std::string::npos);
}

}  // namespace
}  // namespace engram
