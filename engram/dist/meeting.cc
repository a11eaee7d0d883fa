#include "engram/dist/meeting.h"

#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
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

// The two ends of a connection, as numbers: a name would be looked up again and again.
struct Way {
  std::string here, there;
};

struct FreeAddresses {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};
using Addresses = std::unique_ptr<addrinfo, FreeAddresses>;

// Empty where the name is not known; `error` is getaddrinfo's.
Addresses look_up(const World& world, int family, int& error) {
  addrinfo hints = {}, *found = nullptr;
  hints.ai_family = family;
  hints.ai_socktype = SOCK_STREAM;
  error = getaddrinfo(world.host.c_str(), fmt::format("{}", world.port).c_str(), &hints, &found);
  return Addresses(error == 0 ? found : nullptr);
}

std::string numeric(const sockaddr* address, socklen_t size) {
  char text[NI_MAXHOST];
  const int error = getnameinfo(address, size, text, sizeof text, nullptr, 0, NI_NUMERICHOST);
  return error == 0 ? text : "";
}

// Nothing where there is no connection within a second.
std::optional<Way> connect_once(const addrinfo& target) {
  const int fd = socket(target.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return std::nullopt;
  std::optional<Way> way;
  pollfd waiting = {fd, POLLOUT, 0};
  int error = 0;
  socklen_t size = sizeof error;
  const bool started = connect(fd, target.ai_addr, target.ai_addrlen) == 0 || errno == EINPROGRESS;
  if (started && poll(&waiting, 1, 1000) == 1 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 &&
      error == 0) {
    sockaddr_storage here;
    size = sizeof here;
    auto* generic = reinterpret_cast<sockaddr*>(&here);
    if (getsockname(fd, generic, &size) == 0)
      way = Way{numeric(generic, size), numeric(target.ai_addr, target.ai_addrlen)};
  }
  close(fd);
  return way;
}

// Waits until somebody listens at the meeting point. c10d would try once a second and warn on stderr each time.
Result<Way> reach(const World& world, Clock::time_point deadline, milliseconds timeout) {
  std::string why;
  do {
    int error = 0;
    const Addresses found = look_up(world, AF_UNSPEC, error);
    why = error == 0 ? "nobody listens there" : gai_strerror(error);
    for (const addrinfo* target = found.get(); target != nullptr; target = target->ai_next)
      if (const auto way = connect_once(*target)) return *way;
    std::this_thread::sleep_for(kPause);
  } while (Clock::now() < deadline);
  return make_status(StatusCode::kUnavailable, "rank 0 of {} has not come within {}: {}:{}: {}", world.size,
                     seconds_text(timeout), world.host, world.port, why);
}

// The socket at which rank 0 waits for the others. c10d would make one for IPv6 and look up the name of each address
// that connects, on the thread that serves all; those of this machine's IPv4 addresses are in /etc/hosts.
Result<int> listen_for_ranks(const World& world) {
  int error = 0;
  const bool four = look_up(world, AF_INET, error) != nullptr;
  const int fd = socket(four ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in any4 = {};
  any4.sin_family = AF_INET;
  any4.sin_port = htons(static_cast<uint16_t>(world.port));
  sockaddr_in6 any6 = {};
  any6.sin6_family = AF_INET6;
  any6.sin6_port = any4.sin_port;
  const auto* address = four ? reinterpret_cast<const sockaddr*>(&any4) : reinterpret_cast<const sockaddr*>(&any6);
  const int yes = 1;
  if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0 &&
      bind(fd, address, four ? sizeof any4 : sizeof any6) == 0 && listen(fd, SOMAXCONN) == 0)
    return fd;
  const int failure = errno;
  if (fd >= 0) close(fd);
  return make_status(
      StatusCode::kAlreadyExists, "rank 0 of {} cannot listen at port {}: {}{}", world.size, world.port,
      std::strerror(failure),
      failure == EADDRINUSE ? ": another rank 0 or another program does; MASTER_PORT names the port" : "");
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

}  // namespace

Result<Meeting> meet(const World& world, const Hello& hello, milliseconds timeout,
                     const std::function<void(std::string)>& stage) {
  const Clock::time_point deadline = Clock::now() + timeout;
  stage(fmt::format("{}:{} answers, but not as the meeting point of {} ranks: another program has the port", world.host,
                    world.port, world.size));
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(world.port);
  options.isServer = world.rank == 0 && !world.agent_store;
  options.waitWorkers = false;
  options.timeout = timeout;
  if (options.isServer) {
    ENGRAM_ASSIGN_OR_RETURN(options.masterListenFd, listen_for_ranks(world));
  }
  ENGRAM_ASSIGN_OR_RETURN(const Way way, reach(world, deadline, timeout));
  Meeting meeting;
  meeting.address = way.here;
  meeting.store = c10::make_intrusive<c10d::PrefixStore>(fmt::format("engram/{}", world.attempt),
                                                         c10::make_intrusive<c10d::TCPStore>(way.there, options));
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
