#include "engram/core/output_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>
#include <system_error>
#include <thread>
#include <utility>

#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/port/process.h"

namespace engram {
namespace {

using std::chrono::steady_clock;

constexpr auto kPoll = std::chrono::milliseconds(50);
constexpr size_t kLongestCommand = 300;

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof(name) - 1) == 0 ? name : "an unknown host";
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[32];
  return {text, std::strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S UTC", &parts)};
}

// At most 4 KiB of a file from its start; empty when it cannot be read.
std::string read_start(int file) {
  std::string text(4096, '\0');
  const ssize_t got = ::pread(file, text.data(), text.size(), 0);
  text.resize(got > 0 ? static_cast<size_t>(got) : 0);
  return text;
}

// This process's arguments with blanks between: "engram train recipes/smoke.toml".
std::string command_line() {
  const std::string text = fmt::format("{}", fmt::join(port::program_arguments(), " "));
  return text.empty() ? "unknown command" : text.substr(0, 2 * kLongestCommand);
}

Status cannot_lock(const std::string& path, int error) {
  return make_status(StatusCode::kPermissionDenied, "cannot lock '{}': {}", path,
                     std::generic_category().message(error));
}

void write_holder(int file) {
  const nlohmann::ordered_json holder = {
      {"pid", ::getpid()}, {"host", host_name()}, {"since", utc_now()}, {"command", command_line()}};
  const std::string text = holder.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  // Only a message depends on it, so a full disk does not stop the run here.
  (void)!::ftruncate(file, 0);
  (void)!::pwrite(file, text.data(), text.size(), 0);
}

// One line of text from a file that anybody may have written.
std::string plain(const std::string& text) {
  const std::string quoted = quote_text(text, kLongestCommand);
  return quoted.substr(1, quoted.size() - 2);
}

struct Holder {
  std::string text = "another process";  // "process 12 on host since 2026-11-30 03:00:00 UTC (engram train a.toml)"
  bool ended = false;                    // only its children still hold the lock
};

Holder read_holder(int file) {
  const Result<nlohmann::json> holder = parse_json(read_start(file), "lock");
  if (!holder.ok()) return {};
  int pid = 0;
  std::string host, since, command;
  Fields fields(*holder, "lock");
  fields.need("pid", pid, 1);
  fields.need("host", host);
  fields.need("since", since);
  fields.need("command", command);
  if (!fields.status().ok()) return {};
  const bool ended = host == host_name() && !port::is_running(pid);
  return {fmt::format("{}process {} on {} since {} ({})", ended ? "the children of ended " : "", pid, plain(host),
                      plain(since), plain(command)),
          ended};
}

bool is_same_file(int file, const std::string& path) {
  struct stat held, named;
  return ::fstat(file, &held) == 0 && ::lstat(path.c_str(), &named) == 0 && held.st_dev == named.st_dev &&
         held.st_ino == named.st_ino;
}

}  // namespace

Result<OutputLock> OutputLock::folder(Env& env, const std::string& directory, const Options& options) {
  return take(env, directory, join_path(directory, ".lock"), options);
}

Result<OutputLock> OutputLock::file(Env& env, const std::string& path) { return take(env, path, path + ".lock", {}); }

// The holder removes the lock file while it holds the lock, so a lock counts only when its file still has the name.
Result<OutputLock> OutputLock::take(Env& env, const std::string& output, const std::string& path,
                                    const Options& options) {
  const steady_clock::time_point end = steady_clock::now() + options.patience;
  OutputLock lock(path);
  while (true) {
    ENGRAM_RETURN_IF_ERROR(lock.make_folder(env));
    lock.file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | (options.children_share ? 0 : O_CLOEXEC), 0644);
    if (lock.file_ < 0 && (errno == ENOENT || errno == EINTR)) continue;  // the folder went with its last holder
    if (lock.file_ < 0) return cannot_lock(path, errno);
    if (::flock(lock.file_, LOCK_EX | LOCK_NB) != 0) {
      const int error = errno;
      const Holder holder = error == EWOULDBLOCK ? read_holder(lock.file_) : Holder();
      ::close(std::exchange(lock.file_, -1));
      if (error == EINTR) continue;
      if (error == ENOLCK || error == EOPNOTSUPP || error == ENOSYS || error == EINVAL) return lock;
      if (error != EWOULDBLOCK) return cannot_lock(path, error);
      if (!holder.ended || steady_clock::now() >= end)
        return make_status(StatusCode::kFailedPrecondition,
                           "{}: in use by {}; wait for it to end, or choose another output", output, holder.text);
      std::this_thread::sleep_for(kPoll);
      continue;
    }
    if (is_same_file(lock.file_, path)) break;
    ::close(std::exchange(lock.file_, -1));
  }
  write_holder(lock.file_);
  return lock;
}

Status OutputLock::make_folder(Env& env) {
  const std::string directory = parent_path(path_);
  std::vector<std::string> missing;
  for (std::string at = directory; !env.file_exists(at) && at != parent_path(at); at = parent_path(at))
    missing.push_back(at);
  ENGRAM_RETURN_IF_ERROR(env.create_directories(directory));
  if (!missing.empty()) made_.assign(missing.rbegin(), missing.rend());
  return Status();
}

OutputLock::OutputLock(OutputLock&& other) noexcept
    : path_(std::move(other.path_)), file_(std::exchange(other.file_, -1)), made_(std::exchange(other.made_, {})) {}

OutputLock& OutputLock::operator=(OutputLock&& other) noexcept {
  if (this == &other) return *this;
  release();
  path_ = std::move(other.path_);
  file_ = std::exchange(other.file_, -1);
  made_ = std::exchange(other.made_, {});
  return *this;
}

OutputLock::~OutputLock() { release(); }

void OutputLock::release() {
  if (file_ >= 0 && is_same_file(file_, path_)) ::unlink(path_.c_str());
  // Before the lock is free: who comes next makes them again.
  while (!made_.empty() && ::rmdir(made_.back().c_str()) == 0) made_.pop_back();
  made_.clear();
  if (file_ >= 0) ::close(std::exchange(file_, -1));
}

}  // namespace engram
