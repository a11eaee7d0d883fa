#include "engram/serve/http_server.h"

#include <sys/resource.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <future>
#include <nlohmann/json.hpp>
#include <thread>

#include "engram/core/exceptions.h"
#include "engram/core/json.h"
#include "engram/serve/http_session.h"

namespace engram {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
using std::chrono::milliseconds;

constexpr int kMostRefusing = 64;  // connections over the limit that get their 503; beyond that they are just closed
constexpr int kSpareFiles = 64;    // descriptors for all that is no connection
constexpr milliseconds kPoll{20};
constexpr milliseconds kAcceptPause{100};
constexpr milliseconds kLastReplies{2000};

Result<asio::ip::address> parse_host(const HttpServerOptions& options) {
  error_code code;
  const auto address = asio::ip::make_address(options.host == "localhost" ? "127.0.0.1" : options.host, code);
  if (code) {
    return invalid_argument("host: got {}, wanted an IP address or localhost", quote_text(options.host));
  }
  if (!address.is_loopback() && options.api_keys.empty()) {
    return invalid_argument(
        "host: {} can be reached from other machines, and the server has no keys: give it a file with one key a line, "
        "or listen on 127.0.0.1",
        options.host);
  }
  return address;
}

Status check_options(const HttpServerOptions& options) {
  if (options.port < 0 || options.port > 65535) {
    return invalid_argument("port: got {}, wanted 0 (any free one) .. 65535", options.port);
  }
  for (const auto& [name, value] :
       {std::pair{"threads", options.threads}, std::pair{"parse_threads", options.parse_threads},
        std::pair{"max_connections", options.max_connections}, std::pair{"max_choices", options.max_choices}}) {
    if (value < 1) return invalid_argument("{}: got {}, wanted 1 or more", name, value);
  }
  if (options.max_connections_per_address < 0) {
    return invalid_argument("max_connections_per_address: got {}, wanted 0 (a quarter of all) or more",
                            options.max_connections_per_address);
  }
  return Status();
}

// One descriptor per connection: raises the soft limit where it is too low.
Status reserve_files(int max_connections) {
  rlimit limit{};
  const auto wanted = static_cast<rlim_t>(max_connections + kMostRefusing + kSpareFiles);
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted) return Status();
  const rlim_t had = limit.rlim_cur;
  limit.rlim_cur = std::min(wanted, limit.rlim_max);
  if (limit.rlim_cur >= wanted && setrlimit(RLIMIT_NOFILE, &limit) == 0) return Status();
  return make_status(StatusCode::kResourceExhausted,
                     "{} connections need {} open files, and this process may have {}: raise ulimit -n",
                     max_connections, wanted, had);
}

Status listen_error(const error_code& code, const std::string& where) {
  if (code == asio::error::address_in_use) {
    return make_status(StatusCode::kAlreadyExists,
                       "{}: the port is in use by another program; choose another (0: any free one)", where);
  }
  const StatusCode kind = code == asio::error::access_denied ? StatusCode::kPermissionDenied : StatusCode::kUnavailable;
  return make_status(kind, "{}: cannot listen: {}", where, code.message());
}

}  // namespace

struct HttpServer::Impl {
  Impl(HttpServerOptions options, Engine& engine, const Tokenizer& tokenizer)
      : context(std::make_shared<HttpContext>(std::move(options), engine, tokenizer)),
        strand(asio::make_strand(context->io)),
        acceptor(strand),
        pause(strand),
        work(asio::make_work_guard(context->io)),
        parsing_work(asio::make_work_guard(context->parsing)) {}
  ~Impl() { stop(); }

  Status listen();
  void accept();
  void on_accept(const error_code& code, tcp::socket socket);
  void take(tcp::socket socket);
  void run(asio::io_context& io) noexcept;
  void refuse_more();
  void wait_for_sessions();
  void stop();

  std::shared_ptr<HttpContext> context;
  asio::strand<asio::io_context::executor_type> strand;
  tcp::acceptor acceptor;
  asio::steady_timer pause;
  asio::executor_work_guard<asio::io_context::executor_type> work, parsing_work;
  std::vector<std::thread> threads;
  tcp::endpoint endpoint;
};

Status HttpServer::Impl::listen() {
  const HttpServerOptions& options = context->options;
  ENGRAM_RETURN_IF_ERROR(check_options(options));
  ENGRAM_ASSIGN_OR_RETURN(const asio::ip::address address, parse_host(options));
  ENGRAM_RETURN_IF_ERROR(reserve_files(options.max_connections));
  endpoint = tcp::endpoint(address, static_cast<uint16_t>(options.port));
  const std::string where = fmt::format("{}:{}", options.host, options.port);
  error_code code;
  acceptor.open(endpoint.protocol(), code);
  if (!code) acceptor.set_option(tcp::acceptor::reuse_address(true), code);
  if (!code) acceptor.bind(endpoint, code);
  if (!code) acceptor.listen(asio::socket_base::max_listen_connections, code);
  if (code) return listen_error(code, where);
  endpoint = acceptor.local_endpoint(code);
  return code ? listen_error(code, where) : Status();
}

void HttpServer::Impl::accept() {
  acceptor.async_accept(asio::make_strand(context->io),
                        [this](const error_code& code, tcp::socket socket) { on_accept(code, std::move(socket)); });
}

// Whatever happens to one connection, the next is waited for.
void HttpServer::Impl::on_accept(const error_code& code, tcp::socket socket) {
  if (!acceptor.is_open()) return;
  try {
    if (!code) take(std::move(socket));
  } catch (const std::exception& problem) {
    context->log(LogLevel::kError, "connection lost", {{"cause", problem.what()}});
  }
  try {
    if (!code) return accept();
    // Out of descriptors, most likely: one that is freed meanwhile helps.
    pause.expires_after(kAcceptPause);
    pause.async_wait([this](const error_code& stopped) {
      if (!stopped && acceptor.is_open()) accept();
    });
  } catch (const std::exception& problem) {
    context->fail(problem.what());
  }
}

void HttpServer::Impl::take(tcp::socket socket) {
  HttpCounters& counters = context->api.counters();
  ++counters.accepted;
  error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  const tcp::endpoint remote = socket.remote_endpoint(ignored);
  std::string peer = HttpContext::peer_key(remote.address());
  if (context->make_place(peer)) {
    std::make_shared<HttpSession>(std::move(socket), std::move(peer), context)->start();
    return;
  }
  ++counters.refused;
  if (counters.connections < context->options.max_connections + kMostRefusing) {
    std::make_shared<HttpSession>(std::move(socket), std::move(peer), context)->start_refusing();
  }
}

// Handlers catch what they throw; what comes here is a fault of the event loop itself.
void HttpServer::Impl::run(asio::io_context& io) noexcept {
  while (true) {
    try {
      io.run();
      return;
    } catch (const std::exception& problem) {
      context->fail(problem.what());
    } catch (...) {
      context->fail("an exception of no known kind");
    }
  }
}

// No new connection, and 503 for new requests of open ones.
void HttpServer::Impl::refuse_more() {
  context->draining = true;
  asio::post(strand, [this] {
    error_code ignored;
    acceptor.close(ignored);
    pause.cancel();
  });
}

void HttpServer::Impl::wait_for_sessions() {
  const auto end = std::chrono::steady_clock::now() + kLastReplies;
  while (!context->no_session_left() && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(kPoll);
}

void HttpServer::Impl::stop() {
  context->io.stop();
  context->parsing.stop();
  for (std::thread& thread : threads) thread.join();
  threads.clear();
}

Result<std::unique_ptr<HttpServer>> HttpServer::start(HttpServerOptions options, Engine& engine,
                                                      const Tokenizer& tokenizer) {
  auto impl = std::make_unique<Impl>(std::move(options), engine, tokenizer);
  ENGRAM_RETURN_IF_ERROR(impl->listen());
  if (const Chat& chat = impl->context->api.model().chat; !chat.source().empty() && !chat.status().ok())
    impl->context->log(LogLevel::kWarning, "no chat", {{"cause", chat.status().message()}});
  impl->accept();
  const Status started = catch_exceptions([one = impl.get()] {
    const auto add = [one](int count, auto& context) {
      for (int i = 0; i < count; ++i) one->threads.emplace_back([one, &context] { one->run(context); });
    };
    add(one->context->options.threads, one->context->io);
    add(one->context->options.parse_threads, one->context->parsing);
    return Status();
  });
  if (!started.ok()) {
    impl->stop();
    return started;
  }
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpServer::~HttpServer() {
  if (impl_->threads.empty()) return;  // shutdown() was called
  impl_->refuse_more();
  for (const auto& session : impl_->context->sessions()) session->abort();
  impl_->wait_for_sessions();
  impl_->stop();
}

int HttpServer::port() const { return impl_->endpoint.port(); }

std::string HttpServer::url() const {
  const auto address = impl_->endpoint.address();
  const std::string host = address.to_string();
  return fmt::format("http://{}:{}", address.is_v6() ? fmt::format("[{}]", host) : host, port());
}

Status HttpServer::failure() const { return impl_->context->failure(); }

void HttpServer::shutdown(const std::function<bool()>& hurry) {
  HttpContext& context = *impl_->context;
  impl_->refuse_more();
  for (const auto& session : context.sessions()) session->drain();
  std::future<void> drained = std::async(std::launch::async, [&context] { context.engine.drain(); });
  const auto end = std::chrono::steady_clock::now() + context.options.drain_timeout;
  bool waiting = true;
  while (drained.wait_for(kPoll) != std::future_status::ready) {
    if (waiting && !(hurry && hurry()) && std::chrono::steady_clock::now() < end) continue;
    waiting = false;
    for (const auto& session : context.sessions()) session->cancel();
  }
  impl_->wait_for_sessions();
  impl_->stop();
}

}  // namespace engram
