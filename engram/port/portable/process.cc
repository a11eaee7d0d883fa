#include "engram/port/process.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <sstream>
#include <thread>

namespace engram::port {
namespace {

std::vector<std::string>& arguments_of_main() {
  static std::vector<std::string> arguments;
  return arguments;
}

}  // namespace

void remember_arguments(int argc, char** argv) { arguments_of_main().assign(argv, argv + argc); }
std::vector<std::string> program_arguments() { return arguments_of_main(); }

// A name without a folder was found in PATH.
std::string program_path() {
  const std::string name = arguments_of_main().empty() ? "" : arguments_of_main()[0];
  if (name.empty() || name.find('/') != std::string::npos) return name;
  const char* variable = std::getenv("PATH");
  std::istringstream folders(variable == nullptr ? "" : variable);
  for (std::string folder; std::getline(folders, folder, ':');) {
    if (const std::string path = folder + "/" + name; ::access(path.c_str(), X_OK) == 0) return path;
  }
  return "";
}

bool is_running(pid_t process) { return ::kill(process, 0) == 0 || errno == EPERM; }
void end_with_parent() {}  // it is asked to when this process ends in order

std::string processor_name() { return ""; }
std::string gpu_description() { return ""; }
int usable_cores() { return static_cast<int>(std::thread::hardware_concurrency()); }

void keep_freed_memory() {}
bool allow_matrix_tiles() { return false; }
BatchScheduling::BatchScheduling() : changed_(false) {}
BatchScheduling::~BatchScheduling() {}

}  // namespace engram::port
