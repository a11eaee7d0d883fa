// HttpSession's second half: what it sends, and how it ends.
#include <algorithm>
#include <array>
#include <boost/asio/buffer.hpp>
#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>

#include "engram/serve/http_session.h"

namespace engram {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

constexpr size_t kWritePiece = 64 << 10;
constexpr std::chrono::milliseconds kLingerTime{1000};

std::string http_date() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 40> text{};
  std::strftime(text.data(), text.size(), "%a, %d %b %Y %H:%M:%S GMT", &parts);
  return text.data();
}

std::string reply_head(const HttpReply& reply, const std::string& id, const std::string& framing, bool keep_alive) {
  std::string out = fmt::format("HTTP/1.1 {} {}\r\nServer: engram\r\nDate: {}\r\nX-Request-Id: {}\r\n", reply.status,
                                http_reason(reply.status), http_date(), id);
  if (!reply.content_type.empty()) out += fmt::format("Content-Type: {}\r\n", reply.content_type);
  for (const auto& [name, value] : reply.headers) out += fmt::format("{}: {}\r\n", name, value);
  out += fmt::format("X-Content-Type-Options: nosniff\r\n{}Connection: {}\r\n\r\n", framing,
                     keep_alive ? "keep-alive" : "close");
  return out;
}

}  // namespace

// ---- writing

void HttpSession::refuse(const ApiError& error) {
  phase_ = Phase::kAnswering;
  close_after_ = true;
  reply(error.reply());
}

void HttpSession::reply(const HttpReply& reply) {
  name_request();
  const char* route = HttpApi::route_name(request_.path);
  context_.api.counters().count_reply(route, reply.status);
  if (reply.status >= 400) context_.log_failure(id_, reply.status, reply.cause, route);
  log_access(reply.status, reply.body.size());
  const bool keep = !close_after_ && !context_.draining;
  const std::string length = reply.status == 204 ? "" : fmt::format("Content-Length: {}\r\n", reply.body.size());
  send(reply_head(reply, id_, length, keep));
  if (request_.method != "HEAD") send(reply.body);
  end_reply();
}

void HttpSession::log_access(int status, size_t bytes) {
  if (!context_.options.access_log) return;
  const std::chrono::duration<double, std::milli> time = Clock::now() - begin_;
  context_.log(LogLevel::kInfo, "request",
               {{"id", id_},
                {"peer", peer_},
                {"method", request_.method},
                {"path", request_.path},
                {"status", status},
                {"bytes", bytes},
                {"ms", std::round(time.count() * 10) / 10}});
}

// HTTP/1.0 knows no chunks: there the end of the connection is the end of the stream.
void HttpSession::begin_stream() {
  stream_begun_ = true;
  stream_bytes_ = 0;
  if (request_.http_1_0) close_after_ = true;
  const HttpReply head{200, "text/event-stream; charset=utf-8", "", {{"Cache-Control", "no-cache"}}};
  context_.api.counters().count_reply(HttpApi::route_name(request_.path), head.status);
  send(reply_head(head, id_, request_.http_1_0 ? "" : "Transfer-Encoding: chunked\r\n",
                  !close_after_ && !context_.draining));
  if (const std::string text = answer_->begin(); !text.empty()) send_stream(text);
}

void HttpSession::send_stream(const std::string& text) {
  stream_bytes_ += text.size();
  if (request_.http_1_0) return send(text);
  send(fmt::format("{:x}\r\n", text.size()));
  send(text);
  send("\r\n");
}

void HttpSession::send(std::string_view bytes) {
  if (phase_ == Phase::kClosed) return;
  out_ += bytes;
  if (!writing_.empty() || out_.empty()) return;
  // Behind what this handler still adds, so that the pieces of one event leave together.
  post([this] {
    writing_ = std::exchange(out_, "");
    written_ = 0;
    write_some();
  });
  writing_.assign(1, '-');
}

void HttpSession::write_some() {
  if (phase_ == Phase::kClosed) return;
  const uint64_t round = ++write_round_;
  write_timer_.expires_after(context_.options.write_timeout);
  write_timer_.async_wait([weak = weak_from_this(), round](const error_code&) {
    const auto self = weak.lock();
    if (!self || round != self->write_round_) return;
    self->guarded([&] { self->on_slow_client("the client does not read"); });
  });
  wait_for_client(true);
  const size_t count = std::min(writing_.size() - written_, kWritePiece);
  socket_.async_write_some(asio::buffer(writing_.data() + written_, count),
                           [self = shared_from_this()](const error_code& code, size_t sent) {
                             self->guarded([&] { self->on_written(code, sent); });
                           });
}

void HttpSession::on_slow_client(const char* what) {
  ++context_.api.counters().slow_clients;
  name_request();
  context_.log_failure(id_, 408, what, HttpApi::route_name(request_.path));
  close();
}

void HttpSession::on_written(const error_code& code, size_t count) {
  ++write_round_;
  write_timer_.cancel();
  if (phase_ == Phase::kClosed) return;
  if (code) return client_gone();
  wait_for_client(phase_ != Phase::kAnswering);
  written_ += count;
  if (written_ < writing_.size()) return write_some();
  writing_ = std::exchange(out_, "");
  written_ = 0;
  if (!writing_.empty()) return write_some();
  if (reply_ended_) end_reply();
}

// All of a reply was handed over. Once it is out: the next request, or the end.
void HttpSession::end_reply() {
  reply_ended_ = true;
  if (!writing_.empty() || !out_.empty() || phase_ != Phase::kAnswering) return;
  reply_ended_ = false;
  stream_begun_ = false;
  if (close_after_ || context_.draining) return linger();
  phase_ = Phase::kReading;
  wait_for_client(true);
  request_ = HttpRequest();
  id_.clear();
  set_deadline(reader_.idle() ? context_.options.idle_timeout : context_.options.read_timeout);
  advance();
}

// ---- ending

void HttpSession::client_gone() {
  if (answer_) {
    ++context_.api.counters().clients_gone;
    context_.log(LogLevel::kInfo, "client left", {{"id", id_}, {"route", HttpApi::route_name(request_.path)}});
  }
  close();
}

// Closing with bytes unread would reset the connection, and the client might never see the reply.
void HttpSession::linger() {
  phase_ = Phase::kLingering;
  wait_for_client(true);
  error_code ignored;
  socket_.shutdown(Socket::shutdown_send, ignored);
  set_deadline(kLingerTime);
  read_more();
}

void HttpSession::close() {
  if (phase_ == Phase::kClosed) return;
  phase_ = Phase::kClosed;
  wait_for_client(false);
  cancel_requests();
  ids_.clear();
  answer_.reset();
  ++deadline_round_;
  ++write_round_;
  deadline_.cancel();
  write_timer_.cancel();
  error_code ignored;
  socket_.close(ignored);
}

}  // namespace engram
