// A child process: how the lab runs training side by side and survives a crash of one, and how one run starts its
// ranks.
#pragma once
#include <sys/types.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engram/core/status.h"

namespace engram {

// What of a child is not as in this process.
struct ChildOptions {
  int output = -1, errors = -1;  // file descriptors for its stdout and stderr; -1: this process's
  std::map<std::string, std::optional<std::string>> variables;  // of its environment; without a value: removed
  bool own_session = false;                                     // a terminal's Ctrl-C does not reach it
};

// Move-only. Destroyed while the child runs, it asks the child to stop (SIGTERM) and waits for it.
class ChildProcess {
 public:
  // arguments[0] is the program's path. stdin is empty. The system ends the child if this process dies, where it can.
  static Result<ChildProcess> start(const std::vector<std::string>& arguments, const ChildOptions& options = {});
  // stdout and stderr are appended to log_path.
  static Result<ChildProcess> start(const std::vector<std::string>& arguments, const std::string& log_path);
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&&) = delete;
  ~ChildProcess();

  // The exit code once the child has ended (128 + signal for a killed one); empty while it runs.
  std::optional<int> poll();
  // Asks the child to stop; a training run leaves a checkpoint first.
  void terminate();
  void kill();

 private:
  explicit ChildProcess(pid_t pid) : pid_(pid) {}
  void signal(int number);
  pid_t pid_ = -1;
  std::optional<int> exit_code_;
};

}  // namespace engram
