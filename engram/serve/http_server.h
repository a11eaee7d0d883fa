// HttpServer: an engine behind HTTP/1.1: OpenAI's completion endpoints with streaming, metrics, traces of the memory,
// and the page at /. What each endpoint takes and gives: docs/serving.md and GET /openapi.json.
//
// A few threads serve the connections; the engine's thread only hands events over and never waits for a
// client. A client that goes away, or does not read, loses its place in the engine at once. Without keys the server
// listens to this machine alone.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "engram/core/status.h"
#include "engram/serve/engine.h"
#include "engram/serve/http_options.h"
#include "engram/text/tokenizer.h"

namespace engram {

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
