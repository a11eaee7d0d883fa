// An exception on a thread of the server ended in std::terminate. Right: the request that it touches gets 500, the log
// one line, and others go on. After rows that cannot be read /health says so.
#include <algorithm>
#include <sstream>

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
