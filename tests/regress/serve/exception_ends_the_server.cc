// An exception on a thread of the server ended in std::terminate. Right: the request that it touches gets 500, the log
// one line, and others go on. After rows that cannot be read /health says so.
#include <algorithm>
#include <sstream>

#include "tests/regress/refused_threads.h"
#include "tests/regress/serve/server.h"

namespace engram {
namespace {

constexpr const char* kCompletions = "/v1/completions";

TEST_F(ServeRegress, AnExceptionEndsTheServer) {
  std::ostringstream lines;
  HttpServerOptions options;
  options.log = std::make_shared<ServerLog>(LogLevel::kInfo, LogFormat::kText, &lines);
  start(options);
  for (int i = 0; i < 2; ++i) {
    const ClientReply reply = client().post(kCompletions, R"({"prompt": "THROW"})");
    EXPECT_EQ(reply.status, 500) << reply.body;
    EXPECT_NE(reply.body.find("the server failed: std::bad_alloc"), std::string::npos) << reply.body;
  }
  EXPECT_EQ(client().post(kCompletions, R"({"prompt": "a", "max_tokens": 2})").status, 200);
  EXPECT_TRUE(server->failure().ok());
  server.reset();
  options.log.reset();
  const std::string all = lines.str();
  EXPECT_EQ(std::count(all.begin(), all.end(), '\n'), 2) << all;
  EXPECT_NE(all.find(" error request failed id=req-"), std::string::npos) << all;
}

// A request with a body is read on a thread of its own.
TEST_F(ServeRegress, AnExceptionWhileARequestIsReadEndsTheServer) {
  struct NoMemory : FakeEngine {
    EngineMetrics metrics() const override { throw std::bad_alloc(); }
  } no_memory;
  std::ostringstream lines;
  HttpServerOptions options;
  options.port = 0;
  options.log = std::make_shared<ServerLog>(LogLevel::kInfo, LogFormat::kText, &lines);
  server = value_or_throw(HttpServer::start(std::move(options), no_memory, no_memory.tokenizer()));
  for (int i = 0; i < 2; ++i) {
    HttpClient one = client();
    one.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}");
    const ClientReply reply = one.read_reply();
    EXPECT_EQ(reply.status, 500) << reply.body;
    EXPECT_NE(reply.body.find("the server failed: std::bad_alloc"), std::string::npos) << reply.body;
  }
  EXPECT_EQ(client().post(kCompletions, R"({"prompt": "a", "max_tokens": 2})").status, 200);
  EXPECT_TRUE(server->failure().ok());
  server.reset();
  const std::string all = lines.str();
  EXPECT_EQ(std::count(all.begin(), all.end(), '\n'), 2) << all;
  EXPECT_NE(all.find("status=500 route=/metrics cause=\"the server failed: std::bad_alloc\""), std::string::npos)
      << all;
}

#ifdef ENGRAM_CAN_REFUSE_THREADS
TEST_F(ServeRegress, AThreadThatTheSystemRefusesEndsTheServer) {
  for (const int left : {0, 2}) {
    HttpServerOptions options;
    options.port = 0;
    threads_left = left;
    const Status status = HttpServer::start(std::move(options), engine, engine.tokenizer()).status();
    threads_left = INT_MAX;
    EXPECT_EQ(status.message(), "cannot start a thread: Resource temporarily unavailable") << left;
  }
  start();
  EXPECT_EQ(health(), 200);
}
#endif

TEST_F(ServeRegress, HealthSaysOkWhenATableIsDamaged) {
  start();
  EXPECT_NE(client().get("/health").body.find(R"("status":"ok")"), std::string::npos);
  const ClientReply failed = client().post(kCompletions, R"({"prompt": "FAIL0"})");
  EXPECT_EQ(failed.status, 500);
  EXPECT_NE(failed.body.find("table.rows: page 7"), std::string::npos) << failed.body;
  const ClientReply health = client().get("/health");
  EXPECT_EQ(health.status, 200) << "others go on";
  EXPECT_NE(health.body.find(R"("status":"degraded")"), std::string::npos) << health.body;
  EXPECT_EQ(health.body.find("page"), std::string::npos) << "this path needs no key";
  EXPECT_EQ(client().post(kCompletions, R"({"prompt": "a", "max_tokens": 2})").status, 200);
}

}  // namespace
}  // namespace engram
