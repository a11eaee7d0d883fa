// HttpSession: one connection: reads requests one at a time, answers them in order. Private to http_server.cc.
//
// Everything of a session runs on its strand, so it has no lock; bodies alone are read on the threads of
// HttpContext::parsing. It lives as long as one of its handlers waits. Whatever a handler throws ends at most the
// session: guarded() answers 500 where that is possible still, or closes.
#pragma once
#include <array>
#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "engram/serve/answer.h"
#include "engram/serve/http_context.h"
#include "engram/serve/request_reader.h"

namespace engram {

class HttpSession : public HttpConnection, public std::enable_shared_from_this<HttpSession> {
 public:
  using Socket = boost::asio::ip::tcp::socket;  // its executor is a strand

  HttpSession(Socket socket, std::string peer, std::shared_ptr<HttpContext> context);
  ~HttpSession() override;

  // Any thread.
  void start();
  void start_refusing();  // over the limit of connections: 503, and that is all
  void drain() override;
  void cancel() override;
  void abort() override;
  void give_way() override;
  std::optional<Clock::time_point> waiting_since() const override;
  const std::string& peer() const override { return peer_; }

 private:
  enum class Phase { kReading, kAnswering, kLingering, kClosed };
  using Reply = std::variant<HttpReply, GenerationCall>;

  template <typename Work>
  void guarded(const Work& work) noexcept;
  void on_exception(const char* what);
  template <typename Work>
  void post(Work work);  // to the strand
  void wait_for_client(bool waiting);
  void name_request();

  void read_more();
  void on_read(const boost::system::error_code& code, size_t count);
  void advance();
  bool on_head();
  void on_request();
  void parse(const HttpRequest& request, uint64_t call) noexcept;
  void on_reply(Reply answer);
  void set_deadline(std::chrono::milliseconds after);
  void on_deadline();

  void generate(GenerationCall call);
  void on_event(uint64_t call, size_t choice, const GenerationEvent& event);
  void fail_generation(const ApiError& error);
  void end_generation();
  void cancel_requests();

  void refuse(const ApiError& error);  // and read no more
  void reply(const HttpReply& reply);
  void begin_stream();
  void send_stream(const std::string& text);
  void send(std::string_view bytes);
  void write_some();
  void on_written(const boost::system::error_code& code, size_t count);
  void on_slow_client(const char* what);
  void end_reply();
  void client_gone();
  void linger();
  void close();
  void log_access(int status, size_t bytes);

  Socket socket_;
  const std::string peer_;
  // Not an owner: the context owns the executor whose handlers own the session.
  HttpContext& context_;
  std::weak_ptr<HttpContext> context_owner_;
  RequestReader reader_;
  Phase phase_ = Phase::kReading;
  std::atomic<Clock::rep> waiting_since_;  // 0: the server is at work
  bool reading_ = false;  // a read is in flight, also while answering: that is how a leaving client is seen
  std::array<char, 16 << 10> read_buffer_;
  boost::asio::steady_timer deadline_, write_timer_;
  uint64_t deadline_round_ = 0, write_round_ = 0;

  std::string out_, writing_;  // to be sent; being sent
  size_t written_ = 0;         // of writing_
  bool reply_ended_ = false;   // all of the reply is in out_

  HttpRequest request_;  // being answered, without its body
  std::string id_;       // the request's
  Clock::time_point begin_;
  size_t stream_bytes_ = 0;
  std::optional<Answer> answer_;
  bool stream_ = false, stream_begun_ = false;
  std::vector<uint64_t> ids_;  // the engine's, of the call being answered
  uint64_t call_ = 0;          // counts requests, so that events of an earlier one are known
  bool close_after_ = false;
};

template <typename Work>
void HttpSession::guarded(const Work& work) noexcept {
  try {
    try {
      work();
    } catch (const std::exception& problem) {
      on_exception(problem.what());
    } catch (...) {
      on_exception("an exception of no known kind");
    }
  } catch (...) {  // not even the reply could be made
    phase_ = Phase::kClosed;
    boost::system::error_code ignored;
    socket_.close(ignored);
  }
}

template <typename Work>
void HttpSession::post(Work work) {
  boost::asio::post(socket_.get_executor(),
                    [self = shared_from_this(), work = std::move(work)] { self->guarded(work); });
}

}  // namespace engram
