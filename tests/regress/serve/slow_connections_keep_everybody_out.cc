// 512 connections that send a byte a second kept everybody else out for 31 s. Right: where places are short, the one
// that has kept the server waiting longest gives its place to the newcomer; and one address cannot have all places.
#include <thread>
#include <vector>

#include "tests/regress/serve/server.h"

namespace engram {
namespace {

using namespace std::chrono_literals;

TEST_F(ServeRegress, SlowConnectionsKeepEverybodyOut) {
  HttpServerOptions options;
  options.max_connections = 8;
  options.patience = 20ms;
  start(options);
  std::vector<HttpClient> slow;
  for (int i = 0; i < 8; ++i) {
    slow.push_back(client());
    slow.back().send("GET /health HT");
  }
  HttpClient working = std::move(slow.back());  // the server is at work for this one
  slow.pop_back();
  working.send("TP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_EQ(working.read_reply().status, 200);
  working.send(HttpClient::post_text("/v1/completions", R"({"prompt": "HANG"})"));
  while (engine.metrics().running == 0) std::this_thread::sleep_for(1ms);
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(30ms);
    slow.push_back(client());
    EXPECT_EQ(slow.back().get("/health").status, 200) << round;
    EXPECT_TRUE(slow[static_cast<size_t>(round)].ended()) << "the one that waited longest";
  }
  EXPECT_EQ(engine.metrics().running, 1) << "nobody at work was closed";
}

TEST_F(ServeRegress, OneAddressTakesAllPlaces) {
  HttpServerOptions options;
  options.max_connections = 8;
  options.max_connections_per_address = 3;
  options.patience = 60s;
  start(options);
  std::vector<HttpClient> slow;
  for (int i = 0; i < 3; ++i) {
    slow.push_back(client());
    EXPECT_EQ(slow.back().get("/health").status, 200);
  }
  EXPECT_EQ(client().read_reply().status, 503);
  EXPECT_EQ(HttpClient(server->port(), "127.0.0.2").get("/health").status, 200) << "another address has its own";
}

}  // namespace
}  // namespace engram
