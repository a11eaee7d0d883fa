// HttpSession: one connection: reads requests one at a time, answers them in order. Private to http_server.cc.
//
// Everything of a session runs on its strand, so it has no lock. It lives as long as one of its handlers waits.
#pragma once
#include <array>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "engram/serve/answer.h"
#include "engram/serve/http_api.h"
#include "engram/serve/http_server.h"
#include "engram/serve/request_reader.h"

namespace engram {

class HttpSession;

// What sessions share. The engine's callbacks hold it, so an event that comes late finds an executor to go to.
struct HttpContext {
  HttpContext(HttpServerOptions server_options, Engine& served_engine, const Tokenizer& tokenizer)
      : options(std::move(server_options)),
        engine(served_engine),
        api(served_engine, tokenizer, options.chat_template, options.max_choices, options.api_keys) {}

  std::vector<std::shared_ptr<HttpSession>> sessions_now();

  const HttpServerOptions options;
  Engine& engine;
  HttpApi api;
  std::atomic<bool> draining{false};
  std::mutex mutex;
  std::unordered_map<const HttpSession*, std::weak_ptr<HttpSession>> sessions;  // guarded by mutex
  boost::asio::io_context io;                                                   // last: goes first, with its handlers
};

class HttpSession : public std::enable_shared_from_this<HttpSession> {
 public:
  using Socket = boost::asio::ip::tcp::socket;  // its executor is a strand

  HttpSession(Socket socket, std::shared_ptr<HttpContext> context);
  ~HttpSession();

  // Any thread.
  void start();
  void start_refusing();  // over the limit of connections: 503, and that is all
  void drain();           // no request after the one it answers
  void cancel();          // what it generates ends
  void abort();           // closes it

 private:
  enum class Phase { kReading, kAnswering, kLingering, kClosed };

  void read_more();
  void on_read(const boost::system::error_code& code, size_t count);
  void advance();
  bool on_head();
  void on_request();
  void set_deadline(std::chrono::milliseconds after);
  void on_deadline();

  void generate(GenerationCall call);
  void on_event(uint64_t call, size_t choice, const GenerationEvent& event);
  void fail_generation(const ApiError& error);
  void end_generation();
  void cancel_requests();

  void reply(const HttpReply& reply);
  void begin_stream();
  void send_stream(const std::string& text);
  void send(std::string_view bytes);
  void write_some();
  void on_written(const boost::system::error_code& code, size_t count);
  void on_write_stuck();
  void end_reply();
  void client_gone();
  void linger();
  void close();

  Socket socket_;
  // Not an owner: the context owns the executor whose handlers own the session.
  HttpContext& context_;
  std::weak_ptr<HttpContext> context_owner_;
  RequestReader reader_;
  Phase phase_ = Phase::kReading;
  bool reading_ = false;  // a read is in flight, also while answering: that is how a leaving client is seen
  std::array<char, 16 << 10> read_buffer_;
  boost::asio::steady_timer deadline_, write_timer_;
  uint64_t deadline_round_ = 0, write_round_ = 0;

  std::string out_, writing_;  // to be sent; being sent
  size_t written_ = 0;         // of writing_
  bool reply_ended_ = false;   // all of the reply is in out_

  HttpRequest request_;  // being answered
  std::optional<Answer> answer_;
  bool stream_ = false, stream_begun_ = false;
  std::vector<uint64_t> ids_;  // the engine's, of the call being answered
  uint64_t call_ = 0;          // counts calls, so that events of an earlier one are known
  bool close_after_ = false;
};

}  // namespace engram
