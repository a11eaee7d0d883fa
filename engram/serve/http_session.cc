#include "engram/serve/http_session.h"

#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <ctime>

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

std::string reply_head(const HttpReply& reply, const std::string& framing, bool keep_alive) {
  std::string out = fmt::format("HTTP/1.1 {} {}\r\nServer: engram\r\nDate: {}\r\n", reply.status,
                                http_reason(reply.status), http_date());
  if (!reply.content_type.empty()) out += fmt::format("Content-Type: {}\r\n", reply.content_type);
  for (const auto& [name, value] : reply.headers) out += fmt::format("{}: {}\r\n", name, value);
  out += fmt::format("X-Content-Type-Options: nosniff\r\n{}Connection: {}\r\n\r\n", framing,
                     keep_alive ? "keep-alive" : "close");
  return out;
}

}  // namespace

std::vector<std::shared_ptr<HttpSession>> HttpContext::sessions_now() {
  const std::lock_guard lock(mutex);
  std::vector<std::shared_ptr<HttpSession>> out;
  for (const auto& [key, weak] : sessions) {
    if (auto session = weak.lock()) out.push_back(std::move(session));
  }
  return out;
}

HttpSession::HttpSession(Socket socket, std::shared_ptr<HttpContext> context)
    : socket_(std::move(socket)),
      context_(*context),
      context_owner_(context),
      reader_({context->options.max_header_bytes, context->options.max_body_bytes}),
      deadline_(socket_.get_executor()),
      write_timer_(socket_.get_executor()) {
  ++context_.api.counters().connections;
}

HttpSession::~HttpSession() {
  --context_.api.counters().connections;
  const std::lock_guard lock(context_.mutex);
  context_.sessions.erase(this);
}

void HttpSession::start() {
  {
    const std::lock_guard lock(context_.mutex);
    context_.sessions[this] = weak_from_this();
  }
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    self->set_deadline(self->context_.options.idle_timeout);
    self->read_more();
  });
}

void HttpSession::start_refusing() {
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    self->phase_ = Phase::kAnswering;
    self->close_after_ = true;
    self->set_deadline(kLingerTime);
    self->reply(
        ApiError{503, "too many connections: try again later", "server_error", "", "too_many_connections"}.reply());
  });
}

void HttpSession::drain() {
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    self->close_after_ = true;
    if (self->phase_ == Phase::kReading && self->reader_.idle()) self->close();
  });
}

void HttpSession::abort() {
  asio::post(socket_.get_executor(), [self = shared_from_this()] { self->close(); });
}

void HttpSession::cancel() {
  asio::post(socket_.get_executor(), [self = shared_from_this()] { self->cancel_requests(); });
}

// ---- reading

void HttpSession::read_more() {
  if (reading_ || phase_ == Phase::kClosed) return;
  reading_ = true;
  socket_.async_read_some(asio::buffer(read_buffer_),
                          [self = shared_from_this()](const error_code& code, size_t count) {
                            self->reading_ = false;
                            self->on_read(code, count);
                          });
}

void HttpSession::on_read(const error_code& code, size_t count) {
  if (phase_ == Phase::kClosed) return;
  if (code) return client_gone();
  if (phase_ == Phase::kLingering) return read_more();  // thrown away
  const bool first = reader_.idle();
  reader_.append(std::string_view(read_buffer_.data(), count));
  if (phase_ == Phase::kReading) {
    if (first) set_deadline(context_.options.read_timeout);
    return advance();
  }
  // A client that sends ahead is read only so far; beyond that, its leaving is seen when a write fails.
  if (reader_.buffered() < context_.options.max_header_bytes) read_more();
}

// Parses what is there until a request is whole, or more bytes are needed.
void HttpSession::advance() {
  while (phase_ == Phase::kReading) {
    switch (reader_.advance()) {
      case RequestReader::State::kNeedMore: return read_more();
      case RequestReader::State::kHead:
        if (!on_head()) return;
        break;
      case RequestReader::State::kWhole: return on_request();
      case RequestReader::State::kBad:
        phase_ = Phase::kAnswering;
        close_after_ = true;
        return reply(reader_.error().reply());
    }
  }
}

// False: the request is refused before its body was read, which ends the connection too.
bool HttpSession::on_head() {
  const HttpRequest& head = reader_.request();
  if (!head.has_body) return true;
  if (std::optional<HttpReply> refusal = context_.api.refuse(head)) {
    request_ = head;
    phase_ = Phase::kAnswering;
    close_after_ = true;
    reply(*refusal);
    return false;
  }
  if (head.expect_continue && reader_.buffered() == 0) send("HTTP/1.1 100 Continue\r\n\r\n");
  return true;
}

void HttpSession::on_request() {
  request_ = reader_.take();
  phase_ = Phase::kAnswering;
  if (!request_.keep_alive || context_.draining) close_after_ = true;
  set_deadline(context_.options.request_timeout);
  std::variant<HttpReply, GenerationCall> answer = context_.api.answer(request_, context_.draining);
  if (auto* ready = std::get_if<HttpReply>(&answer)) {
    reply(*ready);
  } else {
    generate(std::get<GenerationCall>(std::move(answer)));
  }
  if (phase_ == Phase::kAnswering) read_more();
}

void HttpSession::set_deadline(std::chrono::milliseconds after) {
  const uint64_t round = ++deadline_round_;
  deadline_.expires_after(after);
  // Holds the session: while the engine works there may be no other handler that does.
  deadline_.async_wait([self = shared_from_this(), round](const error_code&) {
    if (round == self->deadline_round_) self->on_deadline();
  });
}

void HttpSession::on_deadline() {
  if (phase_ == Phase::kLingering || (phase_ == Phase::kReading && reader_.idle())) return close();
  if (phase_ == Phase::kReading) {
    phase_ = Phase::kAnswering;
    close_after_ = true;
    return reply(
        ApiError{408, fmt::format("the request was not complete after {} ms", context_.options.read_timeout.count())}
            .reply());
  }
  if (phase_ != Phase::kAnswering) return;
  if (!answer_) return close();  // the reply itself does not get out
  ++context_.api.counters().requests_timed_out;
  fail_generation({504, fmt::format("the request took longer than {} ms", context_.options.request_timeout.count()),
                   "server_error", "", "timeout"});
}

// ---- generating

void HttpSession::generate(GenerationCall call) {
  ++call_;
  answer_.emplace(context_.api.model().info, context_.api.model().tokenizer, call);
  stream_ = call.stream;
  stream_begun_ = false;
  for (size_t choice = 0; choice < call.requests.size(); ++choice) {
    // On the engine's thread. The context goes last, so that the strand still exists when the session goes.
    auto on_event = [owner = context_owner_.lock(), weak = weak_from_this(), number = call_,
                     choice](const GenerationEvent& event) {
      auto self = weak.lock();
      if (!self) return;
      const auto executor = self->socket_.get_executor();
      asio::post(executor, [self = std::move(self), number, choice, event] { self->on_event(number, choice, event); });
    };
    Result<uint64_t> id = context_.engine.submit(std::move(call.requests[choice]), std::move(on_event));
    if (!id.ok()) return fail_generation(engine_error(id.status()));
    ids_.push_back(*id);
  }
}

void HttpSession::on_event(uint64_t call, size_t choice, const GenerationEvent& event) {
  if (call != call_ || !answer_ || phase_ != Phase::kAnswering) return;
  if (out_.size() > context_.options.max_unsent_bytes) {
    ++context_.api.counters().slow_clients;
    return close();
  }
  const std::string text = answer_->on_event(choice, event);
  if (answer_->error()) return fail_generation(ApiError(*answer_->error()));
  if (stream_ && !stream_begun_) begin_stream();
  if (!text.empty()) send_stream(text);
  if (answer_->done()) end_generation();
}

void HttpSession::cancel_requests() {
  for (const uint64_t id : ids_) context_.engine.cancel(id);
}

// The status where nothing was sent yet; inside a stream an event, behind which the stream ends.
void HttpSession::fail_generation(const ApiError& error) {
  cancel_requests();
  ids_.clear();
  answer_.reset();
  if (!stream_begun_) return reply(error.reply());
  send_stream(Answer::stream_error(error));
  if (!request_.http_1_0) send("0\r\n\r\n");
  close_after_ = true;
  end_reply();
}

void HttpSession::end_generation() {
  ids_.clear();
  if (!stream_) {
    const HttpReply body = answer_->reply();
    answer_.reset();
    return reply(body);
  }
  send_stream(answer_->end());
  answer_.reset();
  if (!request_.http_1_0) send("0\r\n\r\n");
  end_reply();
}

// ---- writing

void HttpSession::reply(const HttpReply& reply) {
  context_.api.counters().count_reply(HttpApi::route_name(request_.path), reply.status);
  const bool keep = !close_after_ && !context_.draining;
  const std::string length = reply.status == 204 ? "" : fmt::format("Content-Length: {}\r\n", reply.body.size());
  send(reply_head(reply, length, keep));
  if (request_.method != "HEAD") send(reply.body);
  end_reply();
}

// HTTP/1.0 knows no chunks: there the end of the connection is the end of the stream.
void HttpSession::begin_stream() {
  stream_begun_ = true;
  if (request_.http_1_0) close_after_ = true;
  const HttpReply head{200, "text/event-stream; charset=utf-8", "", {{"Cache-Control", "no-cache"}}};
  context_.api.counters().count_reply(HttpApi::route_name(request_.path), head.status);
  send(
      reply_head(head, request_.http_1_0 ? "" : "Transfer-Encoding: chunked\r\n", !close_after_ && !context_.draining));
  if (const std::string text = answer_->begin(); !text.empty()) send_stream(text);
}

void HttpSession::send_stream(const std::string& text) {
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
  writing_.assign(1, '-');
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    self->writing_ = std::exchange(self->out_, "");
    self->written_ = 0;
    self->write_some();
  });
}

void HttpSession::write_some() {
  if (phase_ == Phase::kClosed) return;
  const uint64_t round = ++write_round_;
  write_timer_.expires_after(context_.options.write_timeout);
  write_timer_.async_wait([weak = weak_from_this(), round](const error_code&) {
    const auto self = weak.lock();
    if (self && round == self->write_round_) self->on_write_stuck();
  });
  const size_t count = std::min(writing_.size() - written_, kWritePiece);
  socket_.async_write_some(
      asio::buffer(writing_.data() + written_, count),
      [self = shared_from_this()](const error_code& code, size_t sent) { self->on_written(code, sent); });
}

void HttpSession::on_write_stuck() {
  ++context_.api.counters().slow_clients;
  close();
}

void HttpSession::on_written(const error_code& code, size_t count) {
  ++write_round_;
  write_timer_.cancel();
  if (phase_ == Phase::kClosed) return;
  if (code) return client_gone();
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
  if (close_after_ || context_.draining) return linger();
  phase_ = Phase::kReading;
  request_ = HttpRequest();
  set_deadline(reader_.idle() ? context_.options.idle_timeout : context_.options.read_timeout);
  advance();
}

// ---- ending

void HttpSession::client_gone() {
  if (answer_) ++context_.api.counters().clients_gone;
  close();
}

// Closing with bytes unread would reset the connection, and the client might never see the reply.
void HttpSession::linger() {
  phase_ = Phase::kLingering;
  error_code ignored;
  socket_.shutdown(Socket::shutdown_send, ignored);
  set_deadline(kLingerTime);
  read_more();
}

void HttpSession::close() {
  if (phase_ == Phase::kClosed) return;
  phase_ = Phase::kClosed;
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
