// A server said nothing while it ran: no failed request reached its operator. Right: one line for each, with the id
// that the client has in X-Request-Id, the status and the cause; whatever the client sends, a line is a line.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "engram/core/json.h"
#include "engram/serve/step_log.h"
#include "tests/regress/serve/server.h"

namespace engram {
namespace {

using nlohmann::json;

struct ServeLogs : ServeRegress {
  void start_logging(LogFormat format, bool access) {
    HttpServerOptions options;
    options.log = std::make_shared<ServerLog>(LogLevel::kInfo, format, &stream);
    options.access_log = access;
    start(std::move(options));
  }
  // After the server has gone, all of its lines.
  std::vector<std::string> lines() {
    server.reset();
    std::istringstream in(stream.str());
    std::vector<std::string> out;
    for (std::string line; std::getline(in, line);) out.push_back(line);
    return out;
  }
  std::ostringstream stream;
};

TEST_F(ServeLogs, TheServerSaysNothing) {
  start_logging(LogFormat::kText, false);
  EXPECT_EQ(client().get("/health").status, 200);
  const ClientReply failed = client().post("/v1/completions", R"({"prompt": 5})");
  EXPECT_EQ(failed.status, 400);
  const std::string id = failed.headers.at("x-request-id");
  EXPECT_TRUE(id.starts_with("req-")) << id;
  const ClientReply named = client().get("/none", "X-Request-Id: from-proxy.7\r\n");
  EXPECT_EQ(named.headers.at("x-request-id"), "from-proxy.7");
  const std::vector<std::string> all = lines();
  ASSERT_EQ(all.size(), 2U) << "none for what went well: the access log is off";
  EXPECT_NE(all[0].find(" warning request failed id=" + id + " status=400 route=/v1/completions cause=\"prompt: got 5"),
            std::string::npos)
      << all[0];
  EXPECT_NE(all[1].find("id=from-proxy.7 status=404 route=other cause="), std::string::npos) << all[1];
}

TEST_F(ServeLogs, AClientWritesLinesOfItsOwn) {
  start_logging(LogFormat::kJson, true);
  const ClientReply named = client().get("/none?\x1b[2J", "X-Request-Id: a b\" status=200\r\n");
  EXPECT_TRUE(named.headers.at("x-request-id").starts_with("req-")) << "not what no id looks like";
  EXPECT_EQ(client().post("/v1/completions", R"({"model": "x\ny\u2028{}"})").status, 404);
  EXPECT_EQ(client().post("/v1/completions", R"({"prompt": "a", "max_tokens": 2, "stream": true})").status, 200);
  std::vector<std::string> events;
  for (const std::string& line : lines()) {
    const json one = json::parse(line);
    EXPECT_TRUE(one.contains("time") && one.contains("level")) << line;
    events.push_back(one["event"].get<std::string>() + " " + one["status"].dump());
  }
  std::sort(events.begin(), events.end());
  EXPECT_EQ(events, (std::vector<std::string>{"request 200", "request 400", "request 404", "request failed 400",
                                              "request failed 404"}));
}

TEST_F(ServeLogs, PreemptionsSlowStepsAndTroubleAreLines) {
  EngineMetrics before, now;
  before.step_seconds = 10;
  now.step_seconds = 11.5;
  StepLog(nullptr).report(before, now, data_loss("no log"));
  {
    StepLog steps(std::make_shared<ServerLog>(LogLevel::kInfo, LogFormat::kText, &stream));
    steps.report(before, now, Status());  // nothing to say
    now.step_seconds = 12.5;
    now.stall_seconds = 2.25;
    now.last_batch = 4;
    now.preemptions = 3;
    now.running = 5;
    now.waiting = 2;
    now.kv_blocks_total = 64;
    steps.report(before, now, data_loss("table.rows: page 7"));
    steps.report(now, now, data_loss("table.rows: page 8"));  // said already
  }
  const std::vector<std::string> all = lines();
  ASSERT_EQ(all.size(), 3U) << stream.str();
  EXPECT_TRUE(
      all[0].ends_with(" warning preempted: the pages for keys and values are full sequences=3 running=5 "
                       "waiting=2 kv_blocks=64"))
      << all[0];
  EXPECT_TRUE(all[1].ends_with(" warning slow step seconds=2.5 stall_seconds=2.25 sequences=4 lines_left_out=0"))
      << all[1];
  EXPECT_TRUE(all[2].ends_with(" error degraded: some requests fail, others go on cause=\"table.rows: page 7\""))
      << all[2];
}

TEST(ServeLogLines, AFloodOfFailuresIsCut) {
  RateLimit limit(2, std::chrono::seconds(1));
  const std::chrono::steady_clock::time_point begin{std::chrono::hours(1)};
  EXPECT_EQ(limit.pass(begin), 0U);
  EXPECT_EQ(limit.pass(begin), 0U);
  EXPECT_EQ(limit.pass(begin), std::nullopt);
  EXPECT_EQ(limit.pass(begin), std::nullopt);
  EXPECT_EQ(limit.pass(begin + std::chrono::seconds(1)), 2U) << "says how many are missing";
  EXPECT_EQ(limit.pass(begin + std::chrono::seconds(1)), 0U);
}

}  // namespace
}  // namespace engram
