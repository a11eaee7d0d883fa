// A child process whose output goes to a file: how the lab runs training side by side and survives a crash of one.
#pragma once
#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "engram/core/status.h"

namespace engram {

// Move-only. Destroyed while the child runs, it asks the child to stop (SIGTERM) and waits for it.
class ChildProcess {
 public:
  // arguments[0] is the program's path. stdout and stderr are appended to log_path; stdin is empty. The child is told
  // to end if this process dies.
  static Result<ChildProcess> start(const std::vector<std::string>& arguments, const std::string& log_path);
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&&) = delete;
  ~ChildProcess();

  // The exit code once the child has ended (128 + signal for a killed one); empty while it runs.
  std::optional<int> poll();
  // Asks the child to stop; a training run leaves a checkpoint first.
  void terminate();

 private:
  explicit ChildProcess(pid_t pid) : pid_(pid) {}
  pid_t pid_ = -1;
  std::optional<int> exit_code_;
};

}  // namespace engram
