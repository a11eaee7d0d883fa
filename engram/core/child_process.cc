#include "engram/core/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "engram/port/process.h"

namespace engram {

namespace {

// This process's environment with changes, "NAME=VALUE" each.
std::vector<std::string> changed_environment(const std::map<std::string, std::optional<std::string>>& changes) {
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    if (changes.count(text.substr(0, text.find('='))) == 0) environment.push_back(text);
  }
  for (const auto& [name, value] : changes)
    if (value) environment.push_back(name + "=" + *value);
  return environment;
}

std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> all;
  for (const std::string& text : texts) all.push_back(const_cast<char*>(text.c_str()));
  all.push_back(nullptr);
  return all;
}

}  // namespace

Result<ChildProcess> ChildProcess::start(const std::vector<std::string>& arguments, const ChildOptions& options) {
  const std::vector<char*> argv = pointers(arguments);
  const std::vector<std::string> environment = changed_environment(options.variables);
  const std::vector<char*> envp = pointers(environment);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0)
    return make_status(StatusCode::kResourceExhausted, "cannot start {}: {}", arguments[0], std::strerror(errno));
  if (pid == 0) {  // only async-signal-safe calls until exec
    port::end_with_parent();
    if (getppid() != parent) _exit(127);
    if (options.own_session) setsid();
    const int empty = open("/dev/null", O_RDONLY);
    if (empty >= 0) dup2(empty, STDIN_FILENO);
    if (options.output >= 0) dup2(options.output, STDOUT_FILENO);
    if (options.errors >= 0) dup2(options.errors, STDERR_FILENO);
    execve(argv[0], argv.data(), envp.data());
    _exit(127);
  }
  return ChildProcess(pid);
}

Result<ChildProcess> ChildProcess::start(const std::vector<std::string>& arguments, const std::string& log_path) {
  const int log = open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0644);
  if (log < 0) return make_status(StatusCode::kPermissionDenied, "{}: cannot open: {}", log_path, std::strerror(errno));
  Result<ChildProcess> child = start(arguments, ChildOptions{.output = log, .errors = log, .variables = {}});
  close(log);
  return child;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), exit_code_(other.exit_code_) {}

ChildProcess::~ChildProcess() {
  if (pid_ < 0 || exit_code_) return;
  terminate();
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
}

std::optional<int> ChildProcess::poll() {
  if (exit_code_ || pid_ < 0) return exit_code_;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) == pid_) {
    exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  return exit_code_;
}

void ChildProcess::terminate() { signal(SIGTERM); }

void ChildProcess::kill() { signal(SIGKILL); }

void ChildProcess::signal(int number) {
  if (pid_ >= 0 && !exit_code_) ::kill(pid_, number);
}

}  // namespace engram
