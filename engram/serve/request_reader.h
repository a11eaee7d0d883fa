// RequestReader: the bytes of a connection, cut into HTTP/1 requests. Any bytes, no sockets (Beast parses).
//
// Pipelined requests stay in order: bytes after one request wait for the next. Not thread-safe.
#pragma once
#include <cstddef>
#include <memory>
#include <string_view>

#include "engram/serve/http_types.h"

namespace engram {

struct HttpLimits {
  size_t max_header_bytes = 16 << 10;
  size_t max_body_bytes = 1 << 20;
};

class RequestReader {
 public:
  enum class State { kNeedMore, kHead, kWhole, kBad };

  explicit RequestReader(const HttpLimits& limits);
  ~RequestReader();

  void append(std::string_view bytes);
  // Goes on as far as the bytes reach. kHead once per request, when its head is complete and its body may not be: call
  // again for the body. kBad: error() says why, and nothing after it can be read.
  State advance();
  const HttpRequest& request() const;  // after kHead, without body
  HttpRequest take();                  // after kWhole: the request; the next one begins
  const ApiError& error() const;       // after kBad

  size_t buffered() const;  // bytes that are not parsed
  bool idle() const;        // between requests, and not a byte of the next

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace engram
