#include "engram/core/machine.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <ctime>
#include <filesystem>
#include <fstream>

namespace engram {

namespace {

// ", " and the first NVIDIA GPU's name and how many there are; empty without its driver.
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
  return count == 1 ? ", " + model : fmt::format(", {} x {}", count, model);
}

}  // namespace

std::string machine_description() {
  std::string model = "unknown processor";
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (line.rfind("model name", 0) == 0) {
      const auto colon = line.find(':');
      if (colon != std::string::npos && colon + 2 <= line.size()) model = line.substr(colon + 2);
      break;
    }
  }
  cpu_set_t cpus;
  const int cores = sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? CPU_COUNT(&cpus)
                                                                  : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  const double gib = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE)) /
                     (1024.0 * 1024.0 * 1024.0);
  return fmt::format("{}, {} cores, {:.1f} GiB{}", model, cores, gib, gpu_description());
}

int64_t peak_rss_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char buffer[16];
  std::strftime(buffer, sizeof buffer, "%Y-%m-%d", &utc);
  return buffer;
}

}  // namespace engram
