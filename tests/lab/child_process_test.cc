#include "engram/lab/study/child_process.h"

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

TEST(ChildProcess, UnwritableLogIsAnError) {
  const auto child = ChildProcess::start({"/bin/true"}, "/no/such/folder/log");
  ASSERT_FALSE(child.ok());
  EXPECT_NE(child.status().message().find("/no/such/folder/log"), std::string::npos);
}

}  // namespace
}  // namespace engram
