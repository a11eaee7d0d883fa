#include "engram/dist/world.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace engram {
namespace {

World world_of(const Variables& variables) {
  const Result<World> world = world_from_environment(variables);
  EXPECT_TRUE(world.ok()) << world.status().message();
  return world.ok() ? *world : World{-1, -1, -1, -1};
}

void expect_world(const Variables& variables, int rank, int size, int local_rank, int local_size) {
  const World world = world_of(variables);
  EXPECT_EQ(world.rank, rank);
  EXPECT_EQ(world.size, size);
  EXPECT_EQ(world.local_rank, local_rank);
  EXPECT_EQ(world.local_size, local_size);
}

TEST(World, OneProcessWithoutVariables) {
  expect_world({}, 0, 1, 0, 1);
  expect_world({{"MASTER_ADDR", "a"}, {"MASTER_PORT", "x"}}, 0, 1, 0, 1);    // left over in a shell
  expect_world({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}}, 0, 1, 0, 1);  // a batch shell
  expect_world({{"LOCAL_RANK", "3"}, {"TORCHELASTIC_RESTART_COUNT", "1"}}, 0, 1, 0, 1);
}

TEST(World, Torchrun) {
  const World world = world_of({{"RANK", "5"},
                                {"WORLD_SIZE", "8"},
                                {"LOCAL_RANK", "1"},
                                {"LOCAL_WORLD_SIZE", "4"},
                                {"MASTER_ADDR", "node-0.cluster"},
                                {"MASTER_PORT", "41234"},
                                {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                                {"TORCHELASTIC_RESTART_COUNT", "2"},
                                {"OMPI_COMM_WORLD_RANK", "0"}});
  EXPECT_EQ(world.rank, 5);
  EXPECT_EQ(world.local_rank, 1);
  EXPECT_EQ(world.host, "node-0.cluster");
  EXPECT_EQ(world.port, 41234);
  EXPECT_TRUE(world.agent_store);
  EXPECT_EQ(world.attempt, 2);
}

TEST(World, PlainVariables) {
  expect_world({{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "127.0.0.1"}}, 1, 2, 1, 2);
  expect_world({{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "10.0.0.1"}}, 1, 2, 0, 1);
  expect_world({{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "1"}, {"LOCAL_WORLD_SIZE", "2"}}, 1, 2, 1, 2);
  expect_world({{"RANK", "0"}, {"WORLD_SIZE", "1"}}, 0, 1, 0, 1);
  EXPECT_EQ(world_of({{"RANK", "0"}, {"WORLD_SIZE", "1"}}).port, 29500);
}

TEST(World, MpiAndSlurm) {
  expect_world({{"OMPI_COMM_WORLD_RANK", "1"},
                {"OMPI_COMM_WORLD_SIZE", "2"},
                {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                {"SLURM_STEP_ID", "0"},
                {"SLURM_PROCID", "0"},
                {"SLURM_NTASKS", "1"}},
               1, 2, 1, 2);
  expect_world({{"PMI_RANK", "1"}, {"PMI_SIZE", "3"}, {"MPI_LOCALRANKID", "1"}, {"MPI_LOCALNRANKS", "3"}}, 1, 3, 1, 3);
  Variables slurm = {{"SLURM_STEP_ID", "0"},  {"SLURM_PROCID", "6"}, {"SLURM_NTASKS", "7"},
                     {"SLURM_LOCALID", "0"},  {"SLURM_NODEID", "3"}, {"SLURM_STEP_TASKS_PER_NODE", "2(x3),1"},
                     {"MASTER_ADDR", "node1"}};
  expect_world(slurm, 6, 7, 0, 1);
  slurm["SLURM_NODEID"] = "2";
  slurm["SLURM_LOCALID"] = "1";
  expect_world(slurm, 6, 7, 1, 2);
  expect_world({{"SLURM_STEP_ID", "0"},
                {"SLURM_PROCID", "1"},
                {"SLURM_NTASKS", "2"},
                {"SLURM_LOCALID", "1"},
                {"SLURM_STEP_TASKS_PER_NODE", "2"}},
               1, 2, 1, 2);
}

// Each case changes good variables; the message names the variable and shows what it held.
TEST(World, HostileVariables) {
  const Variables good = {{"RANK", "1"},        {"WORLD_SIZE", "4"},       {"LOCAL_RANK", "1"},
                          {"MASTER_ADDR", "n"}, {"LOCAL_WORLD_SIZE", "2"}, {"MASTER_PORT", "29501"}};
  ASSERT_TRUE(world_from_environment(good).ok());
  const std::vector<std::pair<std::string, std::string>> cases = {{"RANK", ""},
                                                                  {"RANK", "one"},
                                                                  {"RANK", "-1"},
                                                                  {"RANK", "4"},
                                                                  {"RANK", "1 "},
                                                                  {"RANK", " 1"},
                                                                  {"RANK", "1.0"},
                                                                  {"RANK", "99999999999999999999"},
                                                                  {"RANK", "0x1"},
                                                                  {"WORLD_SIZE", "0"},
                                                                  {"WORLD_SIZE", "-4"},
                                                                  {"WORLD_SIZE", "1000000"},
                                                                  {"WORLD_SIZE", "4;rm"},
                                                                  {"LOCAL_RANK", "2"},
                                                                  {"LOCAL_RANK", "-1"},
                                                                  {"LOCAL_WORLD_SIZE", "5"},
                                                                  {"MASTER_PORT", "0"},
                                                                  {"MASTER_PORT", "65536"},
                                                                  {"MASTER_PORT", "http"},
                                                                  {"MASTER_ADDR", ""},
                                                                  {"MASTER_ADDR", "a b"},
                                                                  {"MASTER_ADDR", "a\nb"},
                                                                  {"MASTER_ADDR", "a\033["},
                                                                  {"MASTER_ADDR", std::string(300, 'a')},
                                                                  {"MASTER_ADDR", "127.0.0.1"},
                                                                  {"TORCHELASTIC_RESTART_COUNT", "many"}};
  for (const auto& [name, value] : cases) {
    Variables variables = good;
    variables[name] = value;
    const Result<World> world = world_from_environment(variables);
    ASSERT_FALSE(world.ok()) << name << "='" << value << "'";
    EXPECT_EQ(world.status().code(), StatusCode::kInvalidArgument);
    const std::string& message = world.status().message();
    EXPECT_EQ(message.find(name), 0u) << message;
    EXPECT_LT(message.size(), 200u) << message;
    EXPECT_TRUE(std::all_of(message.begin(), message.end(), [](char c) { return c >= ' ' && c <= '~'; })) << message;
  }
}

TEST(World, HalfASetNamesWhatIsMissing) {
  const auto refused = [](const Variables& variables) { return world_from_environment(variables).status().message(); };
  EXPECT_EQ(refused({{"RANK", "1"}}).find("WORLD_SIZE is not set"), 0u);
  EXPECT_EQ(refused({{"WORLD_SIZE", "2"}}).find("RANK is not set"), 0u);
  EXPECT_EQ(refused({{"OMPI_COMM_WORLD_RANK", "0"}}).find("OMPI_COMM_WORLD_SIZE is not set"), 0u);
  EXPECT_EQ(refused({{"PMI_SIZE", "2"}}).find("PMI_RANK is not set"), 0u);
  EXPECT_EQ(refused({{"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", "0"}}).find("SLURM_NTASKS is not set"), 0u);
  EXPECT_EQ(refused({{"RANK", "1"}, {"WORLD_SIZE", "2"}}).find("MASTER_ADDR is not set"), 0u);
  EXPECT_EQ(refused({{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "4"}, {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}})
                .find("MASTER_ADDR is not set"),
            0u);
  for (const char* list :
       {"", "x", "2(", "2(x", "2(x)", "2(x0)", "2(x3", "2(x3)1", "2x3", ",", "-2", "0", "99999999999", "2(x9", "5"}) {
    const Variables slurm = {{"SLURM_STEP_ID", "0"},
                             {"SLURM_PROCID", "0"},
                             {"SLURM_NTASKS", "4"},
                             {"MASTER_ADDR", "node"},
                             {"SLURM_STEP_TASKS_PER_NODE", list}};
    EXPECT_EQ(refused(slurm).find("SLURM_STEP_TASKS_PER_NODE is"), 0u) << list << ": " << refused(slurm);
  }
}

TEST(World, NamesAllVariablesThatItReads) {
  const auto names = launcher_variables();
  for (const char* name : {"RANK", "LOCAL_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_ID", "TORCHELASTIC_USE_AGENT_STORE"})
    EXPECT_TRUE(std::any_of(names.begin(), names.end(), [&](const char* other) { return std::string(other) == name; }));
}

}  // namespace
}  // namespace engram
