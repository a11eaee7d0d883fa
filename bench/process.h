// What the benchmarks share: other programs' output, and medians.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "engram/core/status.h"

namespace engram::bench {

double now_seconds();  // monotonic

// REQUIRES: not empty.
double median(std::vector<double> values);

// What the rounds of one measurement gave. REQUIRES: not empty.
struct Spread {
  double median, low, high;
};
Spread spread_of(const std::vector<double>& values);

// The path of this program, for commands: a shell would resolve /proc/self/exe to itself.
std::string this_program();

// A folder for a run's files, removed at the end. The constructor throws std::system_error.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::string file(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

// One word of a shell command.
std::string shell_quoted(const std::string& word);

// Runs shell commands side by side; what each printed, in order. kInternal names the first that failed.
Result<std::vector<std::string>> run_commands(const std::vector<std::string>& commands);

}  // namespace engram::bench
