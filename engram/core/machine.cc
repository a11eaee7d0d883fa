#include "engram/core/machine.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <ctime>

#include "engram/port/memory.h"
#include "engram/port/process.h"

namespace engram {

std::string machine_description() {
  const std::string processor = port::processor_name();
  const double gib = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE)) /
                     (1024.0 * 1024.0 * 1024.0);
  return fmt::format("{}, {} cores, {:.1f} GiB{}", processor.empty() ? "unknown processor" : processor,
                     port::usable_cores(), gib, port::gpu_description());
}

int64_t available_memory_bytes(const std::string& root) { return port::available_memory_bytes(root); }

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
