// A chunked request with a trailer of 70 KB ended the process: an exception of the HTTP parser was not caught. An
// endless trailer, or an endless extension of a chunk, grew memory by 100 MB a second. Right: all of a request that is
// not its body counts under the limit of the head, and is answered with 431 when that is passed.
#include <chrono>

#include "engram/serve/request_reader.h"
#include "tests/regress/serve/server.h"

namespace engram {
namespace {

constexpr const char* kChunkedHead = "GET /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";

TEST_F(ServeRegress, ATrailerOf70KbEndsTheServer) {
  start();
  for (const char* method : {"GET", "POST"}) {
    HttpClient one = client();
    one.send(std::string(method) +
             " /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " +
             std::string(70'000, '0') + "\r\n\r\n");
    const int status = one.read_reply().status;
    EXPECT_EQ(status, std::string(method) == "GET" ? 431 : 405);
  }
  EXPECT_EQ(health(), 200);
}

// What a peer may send before it hears of it: a limit of the head, what the sockets hold, and nothing beyond.
TEST_F(ServeRegress, PartsOfARequestThatNeverEndAreAnswered) {
  start();
  const struct {
    const char* what;
    std::string begin, again;
  } cases[] = {
      {"a trailer of one line", std::string(kChunkedHead) + "0\r\nX: ", std::string(1000, 'a')},
      {"a trailer of short lines", std::string(kChunkedHead) + "0\r\n", "X: a\r\n"},
      {"an extension", std::string(kChunkedHead) + "5;", std::string(1000, 'a')},
      {"extensions of many chunks", kChunkedHead, "1;abcdefgh\r\nx\r\n"},
      {"a head of short lines", "GET /health HTTP/1.1\r\nHost: localhost\r\n", "X: a\r\n"},
      {"empty lines before a request", "", "\r\n"},
      {"a target", "GET /", std::string(1000, 'a')},
  };
  for (const auto& one : cases) {
    SCOPED_TRACE(one.what);
    HttpClient endless = client();
    endless.send(one.begin);
    std::string piece;
    while (piece.size() < 16'000) piece += one.again;
    for (int i = 0; i < 8; ++i) endless.send(piece);
    EXPECT_EQ(endless.read_reply().status, 431);
  }
  EXPECT_EQ(health(), 200);
}

// The memory of a connection: a limit of the head for what is not parsed yet, a limit of the body for the body.
TEST_F(ServeRegress, NothingIsKeptBeyondTheLimits) {
  const HttpLimits limits{.max_header_bytes = 1000, .max_body_bytes = 5000};
  for (const std::string& again : std::vector<std::string>{"X: a\r\n", "a", "0", "1;x\r\nb\r\n", "\r\n"}) {
    for (const std::string& begin : {std::string(kChunkedHead), std::string(kChunkedHead) + "0\r\n", std::string()}) {
      RequestReader reader(limits);
      reader.append(begin);
      size_t fed = 0;
      for (bool more = true; more && fed < 1'000'000; fed += again.size()) {
        reader.append(again);
        for (auto state = reader.advance(); state != RequestReader::State::kNeedMore; state = reader.advance()) {
          if (state == RequestReader::State::kWhole) reader.take();
          if (state == RequestReader::State::kBad) more = false;
          if (!more) break;
        }
        ASSERT_LE(reader.buffered(), limits.max_header_bytes + again.size()) << again;
      }
      EXPECT_LT(fed, 60'000U) << "a limit was met: " << again;
    }
  }
}

TEST_F(ServeRegress, TrailersAndExtensionsWithinTheLimitAreTakenAndDropped) {
  RequestReader reader({});
  reader.append(std::string(kChunkedHead) +
                "003;a=\"b\"\r\nabc\r\n4 ;x\r\ndefg\r\n0\r\nX-Sum: 7\r\nHost: evil\r\n\r\nGET / HTTP/1.0\r\n\r\n");
  EXPECT_EQ(reader.advance(), RequestReader::State::kHead);
  EXPECT_EQ(reader.advance(), RequestReader::State::kWhole);
  const HttpRequest request = reader.take();
  EXPECT_EQ(request.body, "abcdefg");
  EXPECT_EQ(request.host, "localhost") << "a trailer changes no header";
  EXPECT_EQ(reader.advance(), RequestReader::State::kHead) << "the next request begins behind the trailer";
  for (const char* bad : {"g\r\n", "\r\n", "3\nabc", "3\r\nabcd\r\n", "3\r\nabc\n0\r\n", "11111111111111111\r\n",
                          "0\r\n: x\r\n", "0\r\nX x\r\n", "0\r\n\n", "3;\x01\r\n", "0\r\nX: \x01\r\n", "-1\r\n"}) {
    RequestReader other({});
    other.append(std::string(kChunkedHead) + bad);
    EXPECT_EQ(other.advance(), RequestReader::State::kHead);
    EXPECT_EQ(other.advance(), RequestReader::State::kBad) << bad;
    EXPECT_EQ(other.error().status, 400) << bad;
  }
}

}  // namespace
}  // namespace engram
