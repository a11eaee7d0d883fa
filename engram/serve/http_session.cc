#include "engram/serve/http_session.h"

#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <nlohmann/json.hpp>

namespace engram {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

constexpr std::chrono::milliseconds kRefusalTime{1000};

}  // namespace

HttpSession::HttpSession(Socket socket, std::string peer, std::shared_ptr<HttpContext> context)
    : socket_(std::move(socket)),
      peer_(std::move(peer)),
      context_(*context),
      context_owner_(context),
      reader_({context->options.max_header_bytes, context->options.max_body_bytes}),
      waiting_since_(Clock::now().time_since_epoch().count()),
      deadline_(socket_.get_executor()),
      write_timer_(socket_.get_executor()) {
  ++context_.api.counters().connections;
}

HttpSession::~HttpSession() {
  --context_.api.counters().connections;
  context_.remove(this);
}

void HttpSession::start() {
  context_.add(shared_from_this());
  post([this] {
    set_deadline(context_.options.idle_timeout);
    read_more();
  });
}

void HttpSession::start_refusing() {
  post([this] {
    set_deadline(kRefusalTime);
    refuse({503, "too many connections: try again later", "server_error", "", "too_many_connections"});
  });
}

void HttpSession::drain() {
  post([this] {
    close_after_ = true;
    if (phase_ == Phase::kReading && reader_.idle()) close();
  });
}

void HttpSession::abort() {
  post([this] { close(); });
}

void HttpSession::cancel() {
  post([this] { cancel_requests(); });
}

void HttpSession::give_way() {
  waiting_since_ = 0;  // asked once
  post([this] {
    const bool at_work = phase_ == Phase::kAnswering && writing_.empty();
    if (at_work || phase_ == Phase::kClosed) return;
    if (phase_ == Phase::kReading && reader_.idle()) return close();
    on_slow_client("the client was slow, and its place was needed");
  });
}

std::optional<HttpSession::Clock::time_point> HttpSession::waiting_since() const {
  const Clock::rep since = waiting_since_;
  if (since == 0) return std::nullopt;
  return Clock::time_point(Clock::duration(since));
}

void HttpSession::wait_for_client(bool waiting) {
  waiting_since_ = waiting ? Clock::now().time_since_epoch().count() : 0;
}

// The request that was at work fails; what was sent of its reply cannot be taken back.
void HttpSession::on_exception(const char* what) {
  if (phase_ == Phase::kClosed) return;
  const ApiError error{500, fmt::format("the server failed: {}", what), "server_error", "", "internal_error"};
  if (phase_ == Phase::kAnswering && !stream_begun_ && !reply_ended_ && out_.empty() && writing_.empty()) {
    cancel_requests();
    ids_.clear();
    answer_.reset();
    close_after_ = true;
    return reply(error.reply());
  }
  context_.log_failure(id_, error.status, error.message, HttpApi::route_name(request_.path));
  close();
}

void HttpSession::name_request() {
  if (!id_.empty()) return;
  id_ = request_.request_id.empty() ? context_.next_request_id() : request_.request_id;
  begin_ = Clock::now();
}

// ---- reading

void HttpSession::read_more() {
  if (reading_ || phase_ == Phase::kClosed) return;
  reading_ = true;
  socket_.async_read_some(asio::buffer(read_buffer_),
                          [self = shared_from_this()](const error_code& code, size_t count) {
                            self->reading_ = false;
                            self->guarded([&] { self->on_read(code, count); });
                          });
}

void HttpSession::on_read(const error_code& code, size_t count) {
  if (phase_ == Phase::kClosed) return;
  if (code) return client_gone();
  if (phase_ == Phase::kLingering) return read_more();  // thrown away
  const bool was_idle = reader_.idle();
  reader_.append(std::string_view(read_buffer_.data(), count));
  if (phase_ == Phase::kReading) {
    advance();
    // Empty lines before a request do not count: an idle connection stays one.
    if (was_idle && phase_ == Phase::kReading && !reader_.idle()) set_deadline(context_.options.read_timeout);
    return;
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
      case RequestReader::State::kBad: return refuse(reader_.error());
    }
  }
}

// False: the request is refused. Where its body was not read yet, that ends the connection too.
bool HttpSession::on_head() {
  request_ = reader_.request();
  name_request();
  if (std::optional<HttpReply> refusal = context_.api.refuse(request_)) {
    if (request_.has_body || !request_.keep_alive) close_after_ = true;
    if (!request_.has_body) reader_.take();
    phase_ = Phase::kAnswering;
    set_deadline(context_.options.request_timeout);
    reply(*refusal);
    if (phase_ == Phase::kAnswering) read_more();
    return false;
  }
  if (request_.has_body && request_.expect_continue && reader_.buffered() == 0) send("HTTP/1.1 100 Continue\r\n\r\n");
  return true;
}

void HttpSession::on_request() {
  HttpRequest whole = reader_.take();
  phase_ = Phase::kAnswering;
  wait_for_client(false);
  if (!request_.keep_alive || context_.draining) close_after_ = true;
  set_deadline(context_.options.request_timeout);
  ++call_;
  if (whole.has_body) {
    asio::post(context_.parsing,
               [self = shared_from_this(), whole = std::move(whole), call = call_] { self->parse(whole, call); });
  } else {
    on_reply(context_.api.answer(whole, context_.draining));
  }
  if (phase_ == Phase::kAnswering) read_more();
}

// On a thread of HttpContext::parsing: nothing of the session is touched here.
void HttpSession::parse(const HttpRequest& request, uint64_t call) noexcept {
  try {
    std::shared_ptr<Reply> answer;
    std::string problem;
    try {
      answer = std::make_shared<Reply>(context_.api.answer(request, context_.draining));
    } catch (const std::exception& thrown) {
      problem = thrown.what();
    }
    post([this, answer, problem, call] {
      if (call != call_ || phase_ != Phase::kAnswering || reply_ended_) return;  // too late
      if (!answer) return on_exception(problem.c_str());
      on_reply(std::move(*answer));
    });
  } catch (...) {  // no memory for the hand-over: the request ends with its deadline
  }
}

void HttpSession::on_reply(Reply answer) {
  if (auto* ready = std::get_if<HttpReply>(&answer)) return reply(*ready);
  generate(std::get<GenerationCall>(std::move(answer)));
}

void HttpSession::set_deadline(std::chrono::milliseconds after) {
  const uint64_t round = ++deadline_round_;
  deadline_.expires_after(after);
  // Holds the session: while the engine works there may be no other handler that does.
  deadline_.async_wait([self = shared_from_this(), round](const error_code&) {
    if (round == self->deadline_round_) self->guarded([&] { self->on_deadline(); });
  });
}

void HttpSession::on_deadline() {
  if (phase_ == Phase::kLingering || (phase_ == Phase::kReading && reader_.idle())) return close();
  if (phase_ == Phase::kReading) {
    return refuse(
        {408, fmt::format("the request was not complete after {} ms", context_.options.read_timeout.count())});
  }
  if (phase_ != Phase::kAnswering) return;
  if (reply_ended_) return on_slow_client("the client did not take its reply in time");
  ++context_.api.counters().requests_timed_out;
  fail_generation({504, fmt::format("the request took longer than {} ms", context_.options.request_timeout.count()),
                   "server_error", "", "timeout"});
}

// ---- generating

void HttpSession::generate(GenerationCall call) {
  answer_.emplace(context_.api.model().info, context_.api.model().tokenizer, call);
  stream_ = call.stream;
  stream_begun_ = false;
  for (size_t choice = 0; choice < call.requests.size(); ++choice) {
    // On the engine's thread. The context goes last, so that the strand still exists when the session goes.
    auto on_event = [owner = context_owner_.lock(), weak = weak_from_this(), number = call_,
                     choice](const GenerationEvent& event) {
      if (const auto self = weak.lock()) {
        self->post([session = self.get(), number, choice, event] { session->on_event(number, choice, event); });
      }
    };
    Result<uint64_t> id = context_.engine.submit(std::move(call.requests[choice]), std::move(on_event));
    if (!id.ok()) return fail_generation(engine_error(id.status()));
    ids_.push_back(*id);
  }
}

void HttpSession::on_event(uint64_t call, size_t choice, const GenerationEvent& event) {
  if (call != call_ || !answer_ || phase_ != Phase::kAnswering) return;
  if (out_.size() > context_.options.max_unsent_bytes) return on_slow_client("the client does not read its stream");
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
  context_.log_failure(id_, error.status, error.message, HttpApi::route_name(request_.path));
  send_stream(Answer::stream_error(error));
  if (!request_.http_1_0) send("0\r\n\r\n");
  close_after_ = true;
  log_access(200, stream_bytes_);
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
  log_access(200, stream_bytes_);
  end_reply();
}

}  // namespace engram
