#include "engram/dist/local_ranks.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <list>
#include <utility>

#include "engram/core/child_process.h"
#include "engram/dist/world.h"

namespace engram {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kGrace = std::chrono::seconds(10);
constexpr int kPollMilliseconds = 50;
constexpr size_t kLongestLine = 64 << 10;

Result<int> free_port() {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  const bool bound = fd >= 0 && bind(fd, generic, size) == 0 && getsockname(fd, generic, &size) == 0;
  const int error = errno;
  if (fd >= 0) close(fd);
  if (!bound) return make_status(StatusCode::kUnavailable, "no free port at 127.0.0.1: {}", std::strerror(error));
  return ntohs(address.sin_port);
}

// What a rank prints, passed on with its number in front of each line.
class Output {
 public:
  explicit Output(int rank) : rank_(rank) {}
  Output(Output&& other) noexcept
      : rank_(other.rank_), fd_(std::exchange(other.fd_, -1)), pending_(std::move(other.pending_)) {}
  Output& operator=(Output&&) = delete;
  ~Output() {
    if (fd_ >= 0) close(fd_);
  }

  // The end that the rank writes to; the caller closes it.
  Result<int> open() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
      return make_status(StatusCode::kResourceExhausted, "cannot make a pipe: {}", std::strerror(errno));
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    fd_ = ends[0];
    return ends[1];
  }

  int fd() const { return fd_; }

  // All that is there now.
  void pass_on() {
    char buffer[4096];
    ssize_t got = 0;
    while (fd_ >= 0 && (got = read(fd_, buffer, sizeof buffer)) > 0) {
      pending_.append(buffer, static_cast<size_t>(got));
      for (size_t end; (end = pending_.find('\n')) != std::string::npos || pending_.size() > kLongestLine;)
        print(std::min(end, kLongestLine));
    }
    if (fd_ < 0 || got < 0) return;  // nothing more at the moment
    if (!pending_.empty()) print(pending_.size());
    close(std::exchange(fd_, -1));
  }

 private:
  void print(size_t length) {
    fmt::print(stderr, "[rank {}] {}\n", rank_, std::string_view(pending_).substr(0, length));
    pending_.erase(0, length + (pending_[length] == '\n'));
  }

  int rank_;
  int fd_ = -1;
  std::string pending_;
};

struct Rank {
  int number;
  Output output;
  ChildProcess child;
};

Result<ChildProcess> start_rank(int rank, int ranks, int port, const std::vector<std::string>& arguments,
                                Output& output) {
  ChildOptions options;
  options.own_session = true;
  for (const char* name : launcher_variables()) options.variables[name] = std::nullopt;
  options.variables["RANK"] = options.variables["LOCAL_RANK"] = fmt::format("{}", rank);
  options.variables["WORLD_SIZE"] = options.variables["LOCAL_WORLD_SIZE"] = fmt::format("{}", ranks);
  options.variables["MASTER_ADDR"] = "127.0.0.1";
  options.variables["MASTER_PORT"] = fmt::format("{}", port);
  if (rank > 0) {
    ENGRAM_ASSIGN_OR_RETURN(options.errors, output.open());
    options.output = options.errors;
  }
  Result<ChildProcess> child = ChildProcess::start(arguments, options);
  if (rank > 0) close(options.errors);
  return child;
}

// Ranks that run, and the first failure among them.
class LocalRanks {
 public:
  ~LocalRanks() {
    for (Rank& rank : ranks_) rank.child.kill();  // also one that is stopped, which would not hear SIGTERM
  }

  Status start(int ranks, const std::vector<std::string>& arguments) {
    ENGRAM_ASSIGN_OR_RETURN(const int port, free_port());
    for (int rank = 0; rank < ranks; ++rank) {
      Output output(rank);
      ENGRAM_ASSIGN_OR_RETURN(ChildProcess child, start_rank(rank, ranks, port, arguments, output));
      ranks_.push_back({rank, std::move(output), std::move(child)});
    }
    return {};
  }

  int wait(std::span<const std::atomic<bool>> stop) {
    while (any_runs()) {
      std::vector<pollfd> readable;
      for (const Rank& rank : ranks_)
        if (rank.output.fd() >= 0) readable.push_back({rank.output.fd(), POLLIN, 0});
      poll(readable.data(), readable.size(), kPollMilliseconds);
      for (Rank& rank : ranks_) rank.output.pass_on();
      obey(stop);
    }
    for (Rank& rank : ranks_) rank.output.pass_on();
    return exit_code_;
  }

 private:
  bool any_runs() {
    bool any = false;
    for (Rank& rank : ranks_) {
      const std::optional<int> code = rank.child.poll();
      any = any || !code;
      if (!code || *code == 0 || exit_code_ != 0) continue;
      if (*code > 128 && !told_) fmt::print(stderr, "[rank {}] ended by signal {}\n", rank.number, *code - 128);
      exit_code_ = *code;
      failed_at_ = Clock::now();
    }
    return any;
  }

  // Each rank hears a stop once: a second SIGTERM would end it without a checkpoint.
  void obey(std::span<const std::atomic<bool>> stop) {
    const auto late = Clock::now() - failed_at_;
    const bool asked = !stop.empty() && stop[0], failed = exit_code_ != 0 && !asked;
    if ((asked || (failed && late > kGrace)) && !std::exchange(told_, true))
      for (Rank& rank : ranks_) rank.child.terminate();
    if ((stop.size() > 1 && stop[1]) || (failed && late > 2 * kGrace))
      for (Rank& rank : ranks_) rank.child.kill();
  }

  std::list<Rank> ranks_;
  int exit_code_ = 0;
  Clock::time_point failed_at_;
  bool told_ = false;
};

}  // namespace

Result<int> run_local_ranks(int ranks, const std::vector<std::string>& arguments,
                            std::span<const std::atomic<bool>> stop) {
  LocalRanks world;
  ENGRAM_RETURN_IF_ERROR(world.start(ranks, arguments));
  return world.wait(stop);
}

}  // namespace engram
