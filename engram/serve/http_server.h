// HttpServer: an engine behind HTTP/1.1: OpenAI's completion endpoints with streaming, metrics, traces of the memory,
// and the page at /. What each endpoint takes and gives: docs/serving.md and GET /openapi.json.
//
// A few threads serve the connections; the engine's thread only hands events over and never waits for a
// client. A client that goes away, or does not read, loses its place in the engine at once. Without keys the server
// listens to this machine alone.
#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engram/core/status.h"
#include "engram/serve/engine.h"
#include "engram/serve/log.h"
#include "engram/text/tokenizer.h"

namespace engram {

struct HttpServerOptions {
  std::string host = "127.0.0.1";     // an address, or localhost
  int port = 8000;                    // 0: any that is free
  std::vector<std::string> api_keys;  // read_api_keys(); empty only on a loopback address
  std::string chat_template;          // of the checkpoint's config.json; empty: no chat
  int threads = 2;                    // that read and write
  int parse_threads = 4;              // that parse bodies and tokenise
  int max_connections = 512;
  int max_connections_per_address = 0;        // 0: a quarter of all; of this machine's own addresses no limit
  std::chrono::milliseconds patience{1'000};  // where places are short, one that kept the server waiting longer goes
  int max_choices = 16;                       // prompts * n of one call
  size_t max_header_bytes = 16 << 10;
  size_t max_body_bytes = 1 << 20;
  size_t max_unsent_bytes = 32 << 20;                  // of a stream whose client does not read
  std::chrono::milliseconds idle_timeout{60'000};      // between two requests
  std::chrono::milliseconds read_timeout{30'000};      // from a request's first byte to its last
  std::chrono::milliseconds write_timeout{30'000};     // without any progress
  std::chrono::milliseconds request_timeout{600'000};  // from a request's last byte to its reply's
  std::chrono::milliseconds drain_timeout{30'000};     // of shutdown(), for what is running
  std::shared_ptr<ServerLog> log;                      // null: nothing is said
  bool access_log = false;                             // a line for every request, not only for those that fail
};

class HttpServer {
 public:
  // Listens and serves. Engine and tokenizer outlive it.
  //   kInvalidArgument    an option is out of range, host is no address, or not loopback and there are no keys
  //   kAlreadyExists      the port is in use
  //   kPermissionDenied   the port may not be used; kUnavailable: the system refused something else
  static Result<std::unique_ptr<HttpServer>> start(HttpServerOptions options, Engine& engine,
                                                   const Tokenizer& tokenizer);
  // Cancels what runs; shutdown() first lets it end.
  ~HttpServer();

  int port() const;
  std::string url() const;  // "http://127.0.0.1:8000"

  // Not ok: it cannot take connections any more, for want of memory for example. What remains is to end the process.
  Status failure() const;

  // Takes no more connections, answers new requests with 503, drains the engine, and returns when the last reply is
  // out. After drain_timeout, or as soon as `hurry` says so (asked about every 20 ms), what still runs is cancelled.
  // Once.
  void shutdown(const std::function<bool()>& hurry = {});

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace engram
