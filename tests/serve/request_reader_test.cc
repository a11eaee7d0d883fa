// RequestReader: any cut of the bytes gives the same requests; what is not HTTP, or too much of it, is refused.
#include "engram/serve/request_reader.h"

#include <gtest/gtest.h>

#include <vector>

namespace engram {
namespace {

using State = RequestReader::State;

// Requests of `bytes` fed in pieces of `piece`; the status of the error that ended it, 0 for none.
struct Read {
  std::vector<HttpRequest> requests;
  int status = 0;
};
Read read_all(const std::string& bytes, size_t piece, HttpLimits limits = {}) {
  RequestReader reader(limits);
  Read out;
  for (size_t at = 0; at < bytes.size(); at += piece) {
    reader.append(std::string_view(bytes).substr(at, piece));
    for (State state = reader.advance(); state != State::kNeedMore; state = reader.advance()) {
      if (state == State::kWhole) out.requests.push_back(reader.take());
      if (state == State::kBad) {
        out.status = reader.error().status;
        return out;
      }
    }
  }
  return out;
}

TEST(RequestReader, AnyCutGivesTheSameRequests) {
  const std::string bytes =
      "\r\nPOST /v1/completions?x=1 HTTP/1.1\r\nHost: a:80\r\nAuthorization: Bearer k\r\nContent-Type: "
      "application/json\r\n"
      "Content-Length: 5\r\n\r\nhello"
      "GET http://a/health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
      "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: "
      "100-continue\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
      "GET / HTTP/1.0\r\n\r\n";
  for (const size_t piece : {size_t{1}, size_t{2}, size_t{7}, size_t{64}, bytes.size()}) {
    SCOPED_TRACE(piece);
    const Read read = read_all(bytes, piece);
    EXPECT_EQ(read.status, 0);
    ASSERT_EQ(read.requests.size(), 4U);
    EXPECT_EQ(read.requests[0].path, "/v1/completions");
    EXPECT_EQ(read.requests[0].method, "POST");
    EXPECT_EQ(read.requests[0].body, "hello");
    EXPECT_EQ(read.requests[0].authorization, "Bearer k");
    EXPECT_TRUE(read.requests[0].keep_alive && read.requests[0].has_body);
    EXPECT_EQ(read.requests[1].path, "/health");
    EXPECT_FALSE(read.requests[1].keep_alive || read.requests[1].has_body);
    EXPECT_EQ(read.requests[2].body, "abcdefg");
    EXPECT_TRUE(read.requests[2].expect_continue);
    EXPECT_TRUE(read.requests[3].http_1_0);
  }
}

TEST(RequestReader, RefusesWhatIsNotHttp) {
  const std::pair<std::string, int> cases[] = {
      {"hello\r\n\r\n", 400},
      {"GET /\r\n\r\n", 400},
      {"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505},
      {"GET / HTTP/1.1\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400},
      {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
       400},
      {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501},
      {std::string("\x16\x03\x01\x02\x00\x01", 6), 400},
      {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n", 413},
      {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n12345678901\r\n", 413},
      {"GET / HTTP/1.1\r\nHost: a\r\nX: " + std::string(2000, 'x'), 431},
      {"GET /" + std::string(2000, 'x'), 431},
  };
  for (const auto& [bytes, status] : cases) {
    for (const size_t piece : {size_t{1}, bytes.size()}) {
      EXPECT_EQ(read_all(bytes, piece, {1024, 10}).status, status) << bytes.substr(0, 100) << " in pieces of " << piece;
    }
  }
}

}  // namespace
}  // namespace engram
