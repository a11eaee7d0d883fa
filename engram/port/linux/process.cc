#include "engram/port/process.h"

#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

namespace engram::port {

void remember_arguments(int /*argc*/, char** /*argv*/) {}

std::vector<std::string> program_arguments() {
  std::vector<std::string> arguments;
  std::ifstream command_line("/proc/self/cmdline", std::ios::binary);
  for (std::string word; std::getline(command_line, word, '\0');) arguments.push_back(word);
  return arguments;
}

std::string program_path() { return "/proc/self/exe"; }  // the same one where the file was replaced since

bool is_running(pid_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/stat");
  if (!file) return ::kill(process, 0) == 0 || errno == EPERM;
  std::string stat;
  std::getline(file, stat);
  const size_t name_end = stat.rfind(')');
  return name_end == std::string::npos || name_end + 2 >= stat.size() ||
         (stat[name_end + 2] != 'Z' && stat[name_end + 2] != 'X');
}

void end_with_parent() { ::prctl(PR_SET_PDEATHSIG, SIGTERM); }

std::string processor_name() {
  std::ifstream facts("/proc/cpuinfo");
  for (std::string line; std::getline(facts, line);) {
    const auto colon = line.find(':');
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos && colon + 2 <= line.size())
      return line.substr(colon + 2);
  }
  return "";
}

std::string gpu_description() {
  std::error_code none;
  std::string model;
  int count = 0;
  for (const auto& gpu : std::filesystem::directory_iterator("/proc/driver/nvidia/gpus", none)) {
    std::ifstream information(gpu.path() / "information");
    for (std::string line; std::getline(information, line);) {
      const auto at = line.find_first_not_of(" \t", 6);
      if (line.rfind("Model:", 0) == 0 && at != std::string::npos && count++ == 0) model = line.substr(at);
    }
  }
  if (count == 0) return "";
  return count == 1 ? ", " + model : ", " + std::to_string(count) + " x " + model;
}

int usable_cores() {
  cpu_set_t cpus;
  return ::sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? CPU_COUNT(&cpus)
                                                         : static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));
}

void keep_freed_memory() {
#ifdef __GLIBC__
  ::mallopt(M_MMAP_MAX, 0);
  ::mallopt(M_TRIM_THRESHOLD, -1);
  ::mallopt(M_TOP_PAD, 8 << 20);
#endif
}

bool allow_matrix_tiles() {
#ifdef __x86_64__
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

namespace {
// Refused: only time is lost.
bool set_policy(int policy) {
  const sched_param zero{};
  return ::sched_setscheduler(0, policy, &zero) == 0;
}
}  // namespace

BatchScheduling::BatchScheduling() : changed_(::sched_getscheduler(0) == SCHED_OTHER && set_policy(SCHED_BATCH)) {}
BatchScheduling::~BatchScheduling() {
  if (changed_) set_policy(SCHED_OTHER);
}

}  // namespace engram::port
