// ChunkedBody: takes a chunked body (RFC 9112, section 7.1) out of the bytes of a connection. Any bytes, no sockets.
//
// What is not body (extensions of chunks, the trailer, zeros before a size) is checked, counted and thrown away: a peer
// that never stops sending it meets a limit, and none of it is kept. Not thread-safe.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace engram {

class ChunkedBody {
 public:
  enum class State { kNeedMore, kDone, kBad, kTooMuchElse, kTooMuchBody };

  ChunkedBody(size_t max_else_bytes, size_t max_body_bytes) : else_left_(max_else_bytes), body_left_(max_body_bytes) {}

  // Appends to `body` and takes what it has used off the front of `bytes`; after kDone, that is the next request.
  // After any other state but kNeedMore the rest of the connection cannot be read.
  State feed(std::string_view& bytes, std::string& body);
  const char* problem() const { return problem_; }  // after kBad

 private:
  enum class Part {
    kSize,
    kExtension,
    kSizeEnd,
    kData,
    kDataCr,
    kDataLf,
    kLine,
    kName,
    kValue,
    kLineEnd,
    kLast,
    kDone
  };

  // One byte that is not data.
  State step(char c);
  State begin_chunk();
  State bad(const char* problem);
  State go_on(Part part);

  Part part_ = Part::kSize;
  size_t else_left_, body_left_;
  uint64_t size_ = 0;  // of the chunk: announced so far, then what is still to come
  int digits_ = 0;
  const char* problem_ = "";
};

}  // namespace engram
