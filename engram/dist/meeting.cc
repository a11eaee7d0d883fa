#include "engram/dist/meeting.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "engram/core/json.h"

namespace engram {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kPause{20};

// Seconds with one digit only where needed: "60 s", "2.5 s".
std::string seconds_text(milliseconds time) { return fmt::format("{} s", static_cast<double>(time.count()) / 1000); }

// The numeric address of this end of a connection to `target`; empty where there is none within a second.
std::string connect_once(const addrinfo& target) {
  const int fd = socket(target.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return "";
  std::string address;
  pollfd waiting = {fd, POLLOUT, 0};
  int error = 0;
  socklen_t size = sizeof error;
  const bool started = connect(fd, target.ai_addr, target.ai_addrlen) == 0 || errno == EINPROGRESS;
  if (started && poll(&waiting, 1, 1000) == 1 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 &&
      error == 0) {
    sockaddr_storage here;
    size = sizeof here;
    char text[NI_MAXHOST];
    auto* generic = reinterpret_cast<sockaddr*>(&here);
    if (getsockname(fd, generic, &size) == 0 &&
        getnameinfo(generic, size, text, sizeof text, nullptr, 0, NI_NUMERICHOST) == 0)
      address = text;
  }
  close(fd);
  return address;
}

// Waits until somebody listens at the meeting point; this machine's address on the way there. c10d would try once a
// second and warn on stderr each time.
Result<std::string> reach(const World& world, Clock::time_point deadline, milliseconds timeout) {
  std::string why = "nobody listens there";
  do {
    addrinfo hints = {};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    const int error = getaddrinfo(world.host.c_str(), fmt::format("{}", world.port).c_str(), &hints, &found);
    why = error == 0 ? "nobody listens there" : gai_strerror(error);
    std::string address;
    for (const addrinfo* target = found; target != nullptr && address.empty(); target = target->ai_next)
      address = connect_once(*target);
    if (found != nullptr) freeaddrinfo(found);
    if (!address.empty()) return address;
    std::this_thread::sleep_for(kPause);
  } while (Clock::now() < deadline);
  return make_status(StatusCode::kUnavailable, "rank 0 of {} has not come within {}: {}:{}: {}", world.size,
                     seconds_text(timeout), world.host, world.port, why);
}

bool is_loopback(const std::string& address) { return address == "::1" || address.starts_with("127."); }

std::string key(const char* kind, int rank) { return fmt::format("{}/{}", kind, rank); }

nlohmann::json to_json(const Hello& hello, int size) {
  return {{"size", size},
          {"program", hello.program},
          {"recipe", hello.recipe},
          {"vocabulary", hello.vocabulary},
          {"train_tokens", hello.train_tokens}};
}

// What of rank `rank` differs from rank 0, or nothing.
std::optional<std::string> difference(const nlohmann::json& first, const nlohmann::json& other, int rank) {
  constexpr std::pair<const char*, const char*> kFields[] = {{"size", "number of ranks"},
                                                             {"program", "program"},
                                                             {"recipe", "recipe"},
                                                             {"vocabulary", "tokenizer"},
                                                             {"train_tokens", "number of training tokens"}};
  for (const auto& [field, name] : kFields) {
    const auto show = [field = field](const nlohmann::json& hello) {
      const nlohmann::json* value = json_find(hello, field);
      if (value == nullptr) return std::string("nothing");
      return value->is_string() ? quote_text(value->get<std::string>(), 40) : value->dump();
    };
    if (show(first) != show(other))
      return fmt::format("rank {} and rank 0 differ: {}: {} at rank {}, {} at rank 0", rank, name, show(other), rank,
                         show(first));
  }
  return std::nullopt;
}

// The ranks of one world at its store.
class Visit {
 public:
  Visit(const World& world, c10::intrusive_ptr<c10d::Store> store, Clock::time_point deadline, milliseconds timeout)
      : world_(world), store_(std::move(store)), deadline_(deadline), timeout_(timeout) {}

  Status greet(const Hello& hello, const std::string& address) {
    const Status status = greet_all(hello, address);
    return status.ok() ? status : refuse(status);
  }

 private:
  Status greet_all(const Hello& hello, const std::string& address) {
    store_->add("there", 1);
    if (store_->add(key("rank", world_.rank), 1) != 1)
      return make_status(StatusCode::kAlreadyExists, "two processes say that they are rank {} of {}", world_.rank,
                         world_.size);
    const nlohmann::json mine = to_json(hello, world_.size);
    store_->set(key("hello", world_.rank), mine.dump());
    if (is_loopback(address) && world_.local_size < world_.size)
      return make_status(StatusCode::kInvalidArgument,
                         "rank {} of {} would be at {}, which other machines do not reach; MASTER_ADDR wants an "
                         "address of rank 0's machine, or GLOO_SOCKET_IFNAME a network interface",
                         world_.rank, world_.size, address);
    nlohmann::json first;
    for (int rank = 0; rank < world_.size; ++rank) {
      ENGRAM_ASSIGN_OR_RETURN(const std::string text, await(rank));
      ENGRAM_ASSIGN_OR_RETURN(nlohmann::json other, parse_json(text, fmt::format("greeting of rank {}", rank)));
      if (rank == 0) first = other;
      if (const auto what = difference(first, other, rank)) return Status(StatusCode::kInvalidArgument, *what);
    }
    // Rank 0 did not see this one, if rank 0's world is smaller.
    if (const auto what = difference(first, mine, world_.rank)) return Status(StatusCode::kInvalidArgument, *what);
    return {};
  }

  // The greeting of another rank.
  Result<std::string> await(int rank) {
    do {
      if (store_->check({key("hello", rank)})) return store_->get_to_str(key("hello", rank));
      if (store_->check({"failed"})) return Status(StatusCode::kUnavailable, store_->get_to_str("failed"));
      std::this_thread::sleep_for(kPause);
    } while (Clock::now() < deadline_);
    std::vector<int> missing;
    for (int other = 0; other < world_.size; ++other)
      if (!store_->check({key("hello", other)})) missing.push_back(other);
    return make_status(StatusCode::kUnavailable, "{} of {} {} not come within {}", ranks_text(missing), world_.size,
                       missing.size() == 1 ? "has" : "have", seconds_text(timeout_));
  }

  // The first failure is everybody's. The store ends with rank 0, which waits until those who are there have read it,
  // and for those on their way. Two seconds at most.
  Status refuse(const Status& mine) {
    const Status all(mine.code(), store_->compareSet("failed", "", mine.message()));
    store_->add("heard", 1);
    const bool complete = mine.code() == StatusCode::kUnavailable;  // nobody else will come
    const Clock::time_point end = Clock::now() + std::chrono::seconds(2);
    while (world_.rank == 0 && !world_.agent_store && Clock::now() < end) {
      const int64_t there = store_->add("there", 0);
      if ((complete || there >= world_.size) && store_->add("heard", 0) >= there) break;
      std::this_thread::sleep_for(kPause);
    }
    return all;
  }

  const World& world_;
  c10::intrusive_ptr<c10d::Store> store_;
  Clock::time_point deadline_;
  milliseconds timeout_;
};

Result<c10::intrusive_ptr<c10d::Store>> open_store(const World& world, bool holds_it, milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(world.port);
  options.isServer = holds_it;
  options.waitWorkers = false;
  options.timeout = timeout;
  try {
    return c10::intrusive_ptr<c10d::Store>(c10::make_intrusive<c10d::TCPStore>(world.host, options));
  } catch (const std::exception& error) {
    const std::string text = first_line(error);
    if (holds_it && (text.find("EADDRINUSE") != std::string::npos || text.find("already in use") != std::string::npos))
      return make_status(StatusCode::kAlreadyExists,
                         "rank 0 of {} cannot listen at port {}: another rank 0 or another program does; MASTER_PORT "
                         "names the port",
                         world.size, world.port);
    return make_status(StatusCode::kUnavailable, "rank {} of {} cannot meet the others at {}:{}: {}", world.rank,
                       world.size, world.host, world.port, text);
  }
}

}  // namespace

Result<Meeting> meet(const World& world, const Hello& hello, milliseconds timeout,
                     const std::function<void(std::string)>& stage) {
  const Clock::time_point deadline = Clock::now() + timeout;
  const bool holds_it = world.rank == 0 && !world.agent_store;
  stage(fmt::format("{}:{} answers, but not as the meeting point of {} ranks: another program has the port", world.host,
                    world.port, world.size));
  Meeting meeting;
  if (!holds_it) {
    ENGRAM_ASSIGN_OR_RETURN(meeting.address, reach(world, deadline, timeout));
  }
  ENGRAM_ASSIGN_OR_RETURN(const c10::intrusive_ptr<c10d::Store> store, open_store(world, holds_it, timeout));
  if (holds_it) {
    ENGRAM_ASSIGN_OR_RETURN(meeting.address, reach(world, deadline, timeout));
  }
  meeting.store = c10::make_intrusive<c10d::PrefixStore>(fmt::format("engram/{}", world.attempt), store);
  stage(fmt::format("rank 0's store at {}:{} does not answer", world.host, world.port));
  ENGRAM_RETURN_IF_ERROR(Visit(world, meeting.store, deadline, timeout).greet(hello, meeting.address));
  return meeting;
}

std::string ranks_text(std::span<const int> ranks) {
  constexpr size_t kMost = 8;
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < std::min(ranks.size(), kMost); ++i) {
    const bool last = i + 1 == ranks.size();
    text += fmt::format("{}{}", i == 0 ? "" : last ? " and " : ", ", ranks[i]);
  }
  return ranks.size() <= kMost ? text : text + fmt::format(" and {} more", ranks.size() - kMost);
}

std::string first_line(const std::exception& error) {
  const auto* with_trace = dynamic_cast<const c10::Error*>(&error);
  const std::string text = with_trace != nullptr ? with_trace->what_without_backtrace() : error.what();
  return text.substr(0, text.find('\n'));
}

}  // namespace engram
