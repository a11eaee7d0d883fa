#include "engram/dist/world.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <optional>

namespace engram {
namespace {

constexpr int kMostRanks = 65536;

// The variables of one kind of launcher; local ones may be missing.
struct Launcher {
  const char *rank, *size, *local_rank, *local_size;
};
constexpr Launcher kPlain = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"};
constexpr Launcher kOpenMpi = {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
                               "OMPI_COMM_WORLD_LOCAL_SIZE"};
constexpr Launcher kPmi = {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"};
constexpr Launcher kSlurm = {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", nullptr};
constexpr const char* kSlurmStep = "SLURM_STEP_ID";
constexpr const char* kSlurmNode = "SLURM_NODEID";
constexpr const char* kSlurmTasks = "SLURM_STEP_TASKS_PER_NODE";

constexpr std::array kNames = {"RANK",           "WORLD_SIZE",
                               "LOCAL_RANK",     "LOCAL_WORLD_SIZE",
                               "MASTER_ADDR",    "MASTER_PORT",
                               "GROUP_RANK",     "TORCHELASTIC_USE_AGENT_STORE",
                               "PMI_RANK",       "TORCHELASTIC_RESTART_COUNT",
                               "PMI_SIZE",       "OMPI_COMM_WORLD_RANK",
                               "SLURM_PROCID",   "OMPI_COMM_WORLD_SIZE",
                               "SLURM_NTASKS",   "OMPI_COMM_WORLD_LOCAL_RANK",
                               "SLURM_LOCALID",  "OMPI_COMM_WORLD_LOCAL_SIZE",
                               "SLURM_STEP_ID",  "SLURM_STEP_TASKS_PER_NODE",
                               "SLURM_NODEID",   "MPI_LOCALRANKID",
                               "MPI_LOCALNRANKS"};

const std::string* find(const Variables& variables, const char* name) {
  const auto found = name == nullptr ? variables.end() : variables.find(name);
  return found == variables.end() ? nullptr : &found->second;
}

// For a message: at most 40 characters, and none that a terminal would obey.
std::string shown(const std::string& text) {
  std::string out = text.substr(0, 40);
  for (char& c : out)
    if (c < ' ' || c > '~') c = '?';
  return out + (text.size() > out.size() ? ".." : "");
}

Result<int> number(const Variables& variables, const char* name, int lowest, int highest) {
  const std::string* text = find(variables, name);
  if (text == nullptr) return invalid_argument("{} is not set, wanted a number from {} to {}", name, lowest, highest);
  int value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc() || end != text->data() + text->size() || value < lowest || value > highest)
    return invalid_argument("{} is '{}', wanted a number from {} to {}", name, shown(*text), lowest, highest);
  return value;
}

bool is_loopback(const std::string& host) { return host == "localhost" || host == "::1" || host.starts_with("127."); }

// Slurm's list of tasks on each node, "2(x3),1": the number at `node`, or nothing.
std::optional<int> slurm_tasks(const std::string& list, int node) {
  for (size_t at = 0; at < list.size();) {
    const size_t end = std::min(list.find(',', at), list.size());
    int tasks = 0, times = 1;
    const char* last = list.data() + end;
    const auto [after, error] = std::from_chars(list.data() + at, last, tasks);
    if (error != std::errc() || tasks < 1) return std::nullopt;
    if (after != last) {
      if (last - after < 4 || std::string_view(after, 2) != "(x") return std::nullopt;
      const auto [close, wrong] = std::from_chars(after + 2, last, times);
      if (wrong != std::errc() || times < 1 || close + 1 != last || *close != ')') return std::nullopt;
    }
    if (node < times) return tasks;
    node -= times;
    at = end + 1;
  }
  return std::nullopt;
}

const Launcher* find_launcher(const Variables& variables) {
  for (const Launcher* launcher : {&kPlain, &kOpenMpi, &kPmi})
    if (find(variables, launcher->rank) != nullptr || find(variables, launcher->size) != nullptr) return launcher;
  return find(variables, kSlurmStep) != nullptr && find(variables, kSlurm.rank) != nullptr ? &kSlurm : nullptr;
}

Status read_meeting_point(const Variables& variables, World& world, bool& named) {
  const std::string* host = find(variables, "MASTER_ADDR");
  named = host != nullptr;
  if (host != nullptr) {
    const bool fits = !host->empty() && host->size() <= 253 && std::all_of(host->begin(), host->end(), [](char c) {
      return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' || c == '-' ||
             c == '_' || c == ':' || c == '%';
    });
    if (!fits) return invalid_argument("MASTER_ADDR is '{}', wanted a host name or an address", shown(*host));
    world.host = *host;
  }
  if (find(variables, "MASTER_PORT") != nullptr) {
    ENGRAM_ASSIGN_OR_RETURN(world.port, number(variables, "MASTER_PORT", 1, 65535));
  }
  return {};
}

// How many of the ranks are on this machine, and which of them this is. Where the launcher does not say it: all, if
// they meet at this machine's own address, else this one alone.
Status read_local(const Variables& variables, const Launcher& launcher, bool named, World& world) {
  std::optional<int> local_size;
  if (find(variables, launcher.local_size) != nullptr) {
    ENGRAM_ASSIGN_OR_RETURN(local_size, number(variables, launcher.local_size, 1, world.size));
  } else if (const std::string* list = launcher.local_size == nullptr ? find(variables, kSlurmTasks) : nullptr) {
    int node = 0;
    if (find(variables, kSlurmNode) != nullptr) {
      ENGRAM_ASSIGN_OR_RETURN(node, number(variables, kSlurmNode, 0, kMostRanks));
    }
    local_size = slurm_tasks(*list, node);
    if (!local_size || *local_size > world.size)
      return invalid_argument("{} is '{}', wanted the tasks of each node, as 2(x3),1", kSlurmTasks, shown(*list));
  }
  if (find(variables, launcher.local_rank) != nullptr) {
    ENGRAM_ASSIGN_OR_RETURN(world.local_rank,
                            number(variables, launcher.local_rank, 0, local_size.value_or(world.size) - 1));
  }
  const bool here = named && is_loopback(world.host);
  if (!local_size && here) {
    local_size = world.size;
    if (find(variables, launcher.local_rank) == nullptr) world.local_rank = world.rank;
  }
  world.local_size = local_size.value_or(world.local_rank + 1);
  if (!named && world.local_size < world.size)
    return invalid_argument(
        "MASTER_ADDR is not set, wanted the address of rank 0's machine: {} of the {} ranks are on this one",
        local_size ? fmt::format("{}", world.local_size) : "not known how many", world.size);
  if (here && world.local_size < world.size)
    return invalid_argument(
        "MASTER_ADDR is '{}', but only {} of {} ranks are on this machine; wanted an address that "
        "the others reach",
        world.host, world.local_size, world.size);
  return {};
}

}  // namespace

Result<World> world_from_environment(const Variables& variables) {
  World world;
  const Launcher* launcher = find_launcher(variables);
  if (launcher == nullptr) return world;
  ENGRAM_ASSIGN_OR_RETURN(world.size, number(variables, launcher->size, 1, kMostRanks));
  ENGRAM_ASSIGN_OR_RETURN(world.rank, number(variables, launcher->rank, 0, world.size - 1));
  bool named = false;
  ENGRAM_RETURN_IF_ERROR(read_meeting_point(variables, world, named));
  ENGRAM_RETURN_IF_ERROR(read_local(variables, *launcher, named, world));
  if (launcher != &kPlain) return world;
  if (const std::string* agent = find(variables, "TORCHELASTIC_USE_AGENT_STORE")) world.agent_store = *agent == "True";
  if (find(variables, "TORCHELASTIC_RESTART_COUNT") != nullptr) {
    ENGRAM_ASSIGN_OR_RETURN(world.attempt, number(variables, "TORCHELASTIC_RESTART_COUNT", 0, 1 << 30));
  }
  return world;
}

std::span<const char* const> launcher_variables() { return kNames; }

Variables launcher_environment() {
  Variables variables;
  for (const char* name : kNames)
    if (const char* value = std::getenv(name)) variables[name] = value;
  return variables;
}

void leave_world() {
  for (const char* name : launcher_variables()) unsetenv(name);
}

}  // namespace engram
