#include "engram/serve/http_context.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>

namespace engram {
namespace {

namespace asio = boost::asio;

constexpr uint64_t kMostFailureLines = 50;  // a second
constexpr int kMostLeaving = 64;            // connections that have given their places up and are not closed yet

std::string random_prefix() {
  std::random_device device;
  return fmt::format("req-{:08x}-", device());
}

}  // namespace

HttpContext::HttpContext(HttpServerOptions server_options, Engine& served_engine, const Tokenizer& tokenizer)
    : options(std::move(server_options)),
      engine(served_engine),
      api(served_engine, tokenizer, options.chat_template, options.max_choices, options.api_keys),
      id_prefix_(random_prefix()),
      failures_(kMostFailureLines, std::chrono::seconds(1)) {}

HttpContext::~HttpContext() = default;

std::vector<std::shared_ptr<HttpConnection>> HttpContext::sessions() {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<HttpConnection>> out;
  for (const auto& [key, weak] : sessions_) {
    if (auto session = weak.lock()) out.push_back(std::move(session));
  }
  return out;
}

bool HttpContext::no_session_left() {
  const std::lock_guard lock(mutex_);
  return sessions_.empty();
}

void HttpContext::add(const std::shared_ptr<HttpConnection>& session) {
  const std::lock_guard lock(mutex_);
  sessions_[session.get()] = session;
}

void HttpContext::remove(const HttpConnection* session) {
  const std::lock_guard lock(mutex_);
  sessions_.erase(session);
}

std::string HttpContext::peer_key(const asio::ip::address& address) {
  if (!address.is_v6()) return address.to_string();
  const asio::ip::address_v6 whole = address.to_v6();
  if (whole.is_v4_mapped()) return asio::ip::make_address_v4(asio::ip::v4_mapped, whole).to_string();
  if (whole.is_loopback()) return whole.to_string();
  asio::ip::address_v6::bytes_type bytes = whole.to_bytes();
  std::fill(bytes.begin() + 8, bytes.end(), static_cast<unsigned char>(0));
  return asio::ip::address_v6(bytes).to_string();
}

// A proxy's clients all come from this machine: unless a number is given, its own addresses have no limit.
int HttpContext::most_of(const std::string& peer) const {
  if (options.max_connections_per_address > 0) return options.max_connections_per_address;
  if (peer.starts_with("127.") || peer == "::1") return options.max_connections;
  return std::max(options.max_connections / 4, 1);
}

bool HttpContext::make_place(const std::string& peer) {
  // They go after the lock: the last owner of a session takes it out of the list.
  std::vector<std::shared_ptr<HttpConnection>> all = sessions();
  const auto of_peer = std::count_if(all.begin(), all.end(), [&](const auto& one) { return one->peer() == peer; });
  const bool peer_full = of_peer >= most_of(peer);
  if (std::ssize(all) >= options.max_connections + kMostLeaving) return false;
  if (!peer_full && std::ssize(all) < options.max_connections) return true;
  HttpConnection* slowest = nullptr;
  auto since = HttpConnection::Clock::now() - options.patience;
  for (const auto& one : all) {
    if (peer_full && one->peer() != peer) continue;
    const auto waiting = one->waiting_since();
    if (!waiting || *waiting > since) continue;
    slowest = one.get();
    since = *waiting;
  }
  if (slowest == nullptr) return false;
  slowest->give_way();
  ++api.counters().gave_way;
  return true;
}

std::string HttpContext::next_request_id() { return fmt::format("{}{}", id_prefix_, ++requests_); }

void HttpContext::log(LogLevel level, const char* event, const nlohmann::ordered_json& fields) noexcept {
  if (options.log) options.log->write(level, event, fields);
}

void HttpContext::log_failure(const std::string& id, int status, const std::string& cause,
                              const std::string& route) noexcept {
  if (!options.log) return;
  try {
    const std::optional<uint64_t> held_back = failures_.pass();
    if (!held_back) return;
    nlohmann::ordered_json fields = {{"id", id}, {"status", status}, {"route", route}, {"cause", cause}};
    if (*held_back > 0) fields["lines_left_out"] = *held_back;
    log(status >= 500 ? LogLevel::kError : LogLevel::kWarning, "request failed", fields);
  } catch (const std::exception&) {  // out of memory: no line
  }
}

void HttpContext::fail(const char* what) noexcept {
  try {
    const std::lock_guard lock(mutex_);
    if (failure_.empty()) failure_ = what;
  } catch (const std::exception&) {
    failure_.assign("out of memory");  // short enough to need none
  }
}

Status HttpContext::failure() {
  const std::lock_guard lock(mutex_);
  return failure_.empty() ? Status() : Status(StatusCode::kInternal, failure_);
}

}  // namespace engram
