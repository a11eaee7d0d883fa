// Host: LocalHost and Host: localhost. got 403, Host: [evil] got 200; Transfer-Encoding: gzip, chunked was served as if
// it said chunked. Right: names are compared as RFC 3986 and RFC 9110 say; a transfer coding nobody knows is 501.
#include "tests/regress/serve/server.h"

namespace engram {
namespace {

TEST_F(ServeRegress, LocalhostInCapitalsIsRefused) {
  start();
  const auto status = [this](const std::string& host) {
    HttpClient one = client();
    one.send("GET /health HTTP/1.1\r\nHost: " + host + "\r\n\r\n");
    return one.read_reply().status;
  };
  for (const char* host : {"LocalHost", "localhost.", "LOCALHOST:80", "localhost:", "%6cocalhost", "a.localhost",
                           "[::1]", "[::1]:8000", "[FE80::1]", "127.0.0.1", "10.1.2.3:1"}) {
    EXPECT_EQ(status(host), 200) << host;
  }
  for (const char* host : {"[evil]", "[evil]:80", "[::1", "[::1]evil", "[::1]:x", "localhost..", "localhost:80:80",
                           "user@localhost", "localhost.evil", "1.2.3", "1.2.3.4.evil", "127.0.0.1%00.evil",
                           "127.0.0.1:evil", "xn--localhost", "localhost%2eevil"}) {
    EXPECT_EQ(status(host), 403) << host;
  }
}

// The target's own host goes before the header (RFC 9112, section 3.2.2).
TEST_F(ServeRegress, AHostInTheTargetIsNotLookedAt) {
  start();
  for (const auto& [target, wanted] :
       {std::pair{"http://evil.example/health", 403}, std::pair{"http://localhost:1/health?x", 200},
        std::pair{"http://[::1]", 200}, std::pair{"http://evil?@localhost/health", 403}}) {
    HttpClient one = client();
    one.send(std::string("GET ") + target + " HTTP/1.1\r\nHost: localhost\r\n\r\n");
    EXPECT_EQ(one.read_reply().status, wanted) << target;
  }
}

TEST_F(ServeRegress, AnUnknownTransferCodingIsServed) {
  start();
  for (const auto& [codings, wanted] :
       {std::pair{"Transfer-Encoding: gzip, chunked", 501}, std::pair{"Transfer-Encoding: gzip", 501},
        std::pair{"Transfer-Encoding: chunked, gzip", 501}, std::pair{"Transfer-Encoding: xchunked", 501},
        std::pair{"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", 501},
        std::pair{"Transfer-Encoding: chunked, chunked", 400}, std::pair{"Transfer-Encoding:", 400},
        std::pair{"Transfer-Encoding: ChunKed", 200}}) {
    HttpClient one = client();
    one.send(std::string("GET /health HTTP/1.1\r\nHost: localhost\r\n") + codings + "\r\n\r\n0\r\n\r\n");
    EXPECT_EQ(one.read_reply().status, wanted) << codings;
  }
  HttpClient old = client();
  old.send("GET /health HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
  EXPECT_EQ(old.read_reply().status, 400);
}

}  // namespace
}  // namespace engram
