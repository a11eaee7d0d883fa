// HttpContext: what the connections of one server share: options, the API, the log, and who is connected. Private to
// http_server.cc.
#pragma once
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/address.hpp>
#include <chrono>
#include <memory>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "engram/serve/http_api.h"
#include "engram/serve/http_options.h"

namespace engram {

// A connection as the others see it. Any thread.
class HttpConnection {
 public:
  using Clock = std::chrono::steady_clock;
  virtual ~HttpConnection() = default;
  virtual void drain() = 0;     // no request after the one it answers
  virtual void cancel() = 0;    // what it generates ends
  virtual void abort() = 0;     // closes it
  virtual void give_way() = 0;  // closes it, unless the server is at work for it by now
  // Since when nothing is done here because the client does not send or does not read; nothing: the server is at work.
  virtual std::optional<Clock::time_point> waiting_since() const = 0;
  virtual const std::string& peer() const = 0;
};

// Any thread. The engine's callbacks hold it, so an event that comes late finds an executor to go to.
class HttpContext {
 public:
  HttpContext(HttpServerOptions server_options, Engine& served_engine, const Tokenizer& tokenizer);
  ~HttpContext();

  std::vector<std::shared_ptr<HttpConnection>> sessions();
  bool no_session_left();
  void add(const std::shared_ptr<HttpConnection>& session);
  void remove(const HttpConnection* session);
  // Whether there is a place for a connection from `peer`. Where all are taken, the connection that has kept the server
  // waiting longest, for more than options.patience, gives its place up.
  bool make_place(const std::string& peer);
  // What a limit per address counts: an IPv4 address; of IPv6 the 64 bits that belong to one customer.
  static std::string peer_key(const boost::asio::ip::address& address);

  std::string next_request_id();
  void log(LogLevel level, const char* event, const nlohmann::ordered_json& fields) noexcept;
  // One line for a request that failed; a flood of them is cut, and the next line says how many are missing.
  void log_failure(const std::string& id, int status, const std::string& cause, const std::string& route) noexcept;

  // The server cannot continue.
  void fail(const char* what) noexcept;
  Status failure();

  const HttpServerOptions options;
  Engine& engine;
  HttpApi api;
  std::atomic<bool> draining{false};

 private:
  int most_of(const std::string& peer) const;

  const std::string id_prefix_;
  std::atomic<uint64_t> requests_{0};
  RateLimit failures_;
  std::mutex mutex_;  // guards all below
  std::unordered_map<const HttpConnection*, std::weak_ptr<HttpConnection>> sessions_;
  std::string failure_;

 public:
  // Last: they go first, with the handlers that they hold. `parsing` reads bodies: what takes long must not hold up
  // the sockets, which are `io`'s.
  boost::asio::io_context io, parsing;
};

}  // namespace engram
