// HttpServer over the fake engine and real sockets: what clients may rely on, and clients that nobody may rely on.
#include "engram/serve/http_server.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "engram/core/json.h"
#include "engram/serve/chat.h"
#include "tests/serve/fake_engine.h"
#include "tests/serve/http_client.h"

namespace engram {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
constexpr const char* kCompletions = "/v1/completions";

struct ServeHttp : testing::Test {
  void start(HttpServerOptions options = {}, FakeEngineOptions engine_options = {}) {
    server.reset();
    engine = std::make_unique<FakeEngine>(std::move(engine_options));
    options.port = 0;
    options.chat_template = kPlainChatTemplate;
    server = value_or_throw(HttpServer::start(std::move(options), *engine, engine->tokenizer()));
  }
  HttpClient client() const { return HttpClient(server->port()); }
  json metrics() const { return json::parse(client().get("/metrics.json").body); }
  // A line of /metrics by its beginning.
  double metric(const std::string& name) const {
    const std::string text = client().get("/metrics").body;
    const size_t at = text.find("\n" + name + " ");
    return at == std::string::npos ? -1 : std::stod(text.substr(at + name.size() + 2));
  }
  // No connection is left but the one that asks.
  bool all_closed() const {
    for (int i = 0; i < 250; ++i) {
      if (metrics()["connections"] == 1) return true;
      std::this_thread::sleep_for(20ms);
    }
    return false;
  }
  bool idle(std::chrono::milliseconds limit = 5000ms) const { return engine->wait_until_idle(limit); }

  std::unique_ptr<FakeEngine> engine;  // outlives the server
  std::unique_ptr<HttpServer> server;
};

TEST_F(ServeHttp, AnswersOneRequestAfterTheOther) {
  start();
  HttpClient one = client();
  EXPECT_EQ(one.get("/health").body, R"({"status":"ok","key_required":false})");
  const ClientReply reply = one.post(kCompletions, R"({"prompt": "a", "max_tokens": 10, "temperature": 0})");
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.headers.at("content-type"), "application/json");
  EXPECT_EQ(reply.headers.at("connection"), "keep-alive");
  const json body = json::parse(reply.body);
  EXPECT_EQ(body["choices"][0]["text"], "The memory");
  EXPECT_EQ(body["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(one.get("/nothing").status, 404);
  one.send("HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
  const ClientReply head = one.read_reply(true);
  EXPECT_EQ(head.headers.at("content-length"), "36");
  one.send("OPTIONS /v1/completions HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_EQ(one.read_reply().headers.at("allow"), "POST, OPTIONS");
  EXPECT_EQ(one.get("/health", "Connection: close\r\n").headers.at("connection"), "close");
  EXPECT_TRUE(one.ended());
}

TEST_F(ServeHttp, Streams) {
  start();
  HttpClient one = client();
  const std::string body = R"({"prompt": "a", "max_tokens": 3, "temperature": 0, "stream": true})";
  const ClientReply reply = one.post(kCompletions, body);
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.headers.at("content-type"), "text/event-stream; charset=utf-8");
  EXPECT_NE(reply.body.find(R"("text":"T")"), std::string::npos) << reply.body;
  EXPECT_TRUE(reply.body.ends_with("data: [DONE]\n\n"));
  EXPECT_EQ(one.get("/health").status, 200) << "the connection goes on";
  // HTTP/1.0 knows no chunks: the end of the connection is the end of the stream.
  HttpClient old = client();
  old.send(fmt::format("POST {} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
                       kCompletions, body.size(), body));
  const ClientReply plain = old.read_reply();
  EXPECT_EQ(plain.headers.count("transfer-encoding"), 0U);
  EXPECT_TRUE(plain.body.ends_with("data: [DONE]\n\n")) << plain.body;
}

TEST_F(ServeHttp, EndsAtAStopString) {
  start();
  const ClientReply reply = client().post(
      kCompletions, R"({"prompt": "a", "max_tokens": 60, "temperature": 0, "stop": ["mo", "model"], "n": 2})");
  const json body = json::parse(reply.body);
  EXPECT_EQ(body["choices"][1]["text"], "The me");
  EXPECT_EQ(body["choices"][1]["finish_reason"], "stop");
}

TEST_F(ServeHttp, PipelinedRequestsAreAnsweredInOrder) {
  start();
  HttpClient one = client();
  std::string all = HttpClient::post_text(kCompletions, R"({"prompt": "a", "max_tokens": 20, "stream": true})");
  all += "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
  all += HttpClient::post_text(kCompletions, R"({"prompt": "a", "max_tokens": 4, "temperature": 0})");
  all += "GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n";
  one.send(all);
  EXPECT_TRUE(one.read_reply().body.ends_with("data: [DONE]\n\n"));
  EXPECT_EQ(one.read_reply().body, R"({"status":"ok","key_required":false})");
  EXPECT_EQ(json::parse(one.read_reply().body)["choices"][0]["text"], "The ");
  EXPECT_EQ(one.read_reply().status, 404);
}

TEST_F(ServeHttp, ContinuesBeforeTheBody) {
  start();
  HttpClient one = client();
  const std::string body = R"({"prompt": "a", "max_tokens": 1})";
  const std::string text = HttpClient::post_text(kCompletions, body, "Expect: 100-continue\r\n");
  one.send(text.substr(0, text.size() - body.size()));
  EXPECT_EQ(one.wait_for("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  EXPECT_EQ(one.read_reply().status, 100);
  one.send(body);
  EXPECT_EQ(one.read_reply().status, 200);
  // A body that will not be served is refused before it is sent.
  HttpClient other = client();
  other.send("POST /none HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n");
  EXPECT_EQ(other.read_reply().status, 404);
  EXPECT_TRUE(other.ended());
}

TEST_F(ServeHttp, TraceOfAPrompt) {
  start();
  const ClientReply reply = client().post("/v1/memory/trace", R"({"prompt": "abc"})");
  const json body = json::parse(reply.body);
  ASSERT_EQ(body["tokens"].size(), 3U) << reply.body;
  EXPECT_EQ(body["tokens"][2]["ngrams"], json({"bc", "abc"}));
  EXPECT_EQ(body["tokens"][2]["layers"][1]["layer_id"], 4);
  EXPECT_EQ(body["tokens"][2]["layers"][1]["rows"].size(), 4U);
}

TEST_F(ServeHttp, FailuresOfTheEngine) {
  start();
  HttpClient one = client();
  ClientReply reply = one.post(kCompletions, R"({"prompt": "FAIL", "max_tokens": 9, "n": 2})");
  EXPECT_EQ(reply.status, 500);
  EXPECT_NE(reply.body.find("page 7"), std::string::npos);
  reply = one.post(kCompletions, R"({"prompt": "FAIL0", "max_tokens": 9, "stream": true})");
  EXPECT_EQ(reply.status, 500) << "before the first token a stream has a status too";
  reply = one.post(kCompletions, R"({"prompt": "FAIL", "max_tokens": 9, "stream": true})");
  EXPECT_EQ(reply.status, 200);
  EXPECT_NE(reply.body.find("data: {\"error\":{\"message\":\"table.rows: page 7"), std::string::npos) << reply.body;
  EXPECT_EQ(reply.body.find("[DONE]"), std::string::npos);
  EXPECT_TRUE(one.ended());
  EXPECT_EQ(client().post(kCompletions, R"({"prompt": "a", "max_tokens": 2})").status, 200) << "others go on";
  EXPECT_TRUE(idle());
}

TEST_F(ServeHttp, AFullQueue) {
  start({}, {.max_requests = 3});
  HttpClient one = client();
  one.send(HttpClient::post_text(kCompletions, R"({"prompt": "HANG", "n": 2})"));
  while (metrics()["running"] != 2) std::this_thread::sleep_for(5ms);
  const ClientReply reply = client().post(kCompletions, R"({"prompt": "a", "n": 2, "max_tokens": 1000})");
  EXPECT_EQ(reply.status, 429) << reply.body;
  EXPECT_EQ(reply.headers.at("retry-after"), "1");
  one.close();
  EXPECT_TRUE(idle()) << "also the one of two that had got in";
}

TEST_F(ServeHttp, AClientThatLeavesFreesItsPlace) {
  start();
  for (const bool stream : {true, false}) {
    for (const int how : {0, 1, 2}) {
      SCOPED_TRACE(fmt::format("stream {} how {}", stream, how));
      HttpClient one = client();
      one.send(HttpClient::post_text(kCompletions,
                                     fmt::format(R"({{"prompt": "{}", "max_tokens": 2000, "n": 2, "stream": {}}})",
                                                 stream ? "a" : "HANG", stream)));
      if (stream) one.wait_for("data: ");
      while (metrics()["running"] != 2) std::this_thread::sleep_for(5ms);
      if (how == 0) one.close();
      if (how == 1) one.reset();
      if (how == 2) one.half_close();
      EXPECT_TRUE(idle());
    }
  }
  EXPECT_EQ(metric("engram_http_clients_gone_total"), 6);
  EXPECT_EQ(metric("engram_requests_total{outcome=\"cancelled\"}"), 12);
}

TEST_F(ServeHttp, AClientThatDoesNotReadIsCutOff) {
  for (const bool by_size : {true, false}) {
    SCOPED_TRACE(by_size);
    HttpServerOptions options;
    options.write_timeout = by_size ? 60'000ms : 300ms;
    options.max_unsent_bytes = by_size ? 100'000 : size_t{1} << 30;
    start(options, {.step = 4000us, .max_context = 1'000'000});
    HttpClient one = client();
    one.read_slowly();
    one.send(HttpClient::post_text(
        kCompletions,
        R"({"prompt": "a", "max_tokens": 900000, "n": 2, "stream": true, "memory_trace": true, "logprobs": 20})"));
    while (metrics()["running"] == 0) std::this_thread::sleep_for(5ms);
    EXPECT_TRUE(idle(60'000ms)) << "the engine never waits for it";
    EXPECT_EQ(metric("engram_http_slow_clients_total"), 1);
  }
}

TEST_F(ServeHttp, LimitsOfARequest) {
  HttpServerOptions options;
  options.max_body_bytes = 1000;
  options.max_header_bytes = 1000;
  start(options);
  const ClientReply large = client().post(kCompletions, std::string(1001, ' '));
  EXPECT_EQ(large.status, 413);
  EXPECT_EQ(large.headers.at("connection"), "close");
  EXPECT_EQ(client().get("/health", fmt::format("X: {}\r\n", std::string(1000, 'x'))).status, 431);
  HttpClient noise = client();
  noise.send("\x16\x03\x01 what\r\n\r\n");
  EXPECT_EQ(noise.read_reply().status, 400);
  EXPECT_TRUE(noise.ended());
  // The reply arrives although most of the body was never read.
  HttpClient huge = client();
  huge.send(HttpClient::post_text(kCompletions, std::string(3 << 20, ' ')));
  EXPECT_EQ(huge.read_reply().status, 413);
  EXPECT_EQ(metric("engram_http_replies_total{route=\"other\",status=\"413\"}"), 2);
}

TEST_F(ServeHttp, TimeLimits) {
  HttpServerOptions options;
  options.read_timeout = 200ms;
  options.idle_timeout = 300ms;
  options.request_timeout = 400ms;
  start(options);
  HttpClient slow = client();
  slow.send("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n");
  EXPECT_EQ(slow.read_reply().status, 408);
  EXPECT_TRUE(slow.ended());
  HttpClient silent = client();
  EXPECT_TRUE(silent.ended(5000ms)) << "no request: closed without a word";
  HttpClient kept = client();
  EXPECT_EQ(kept.get("/health").status, 200);
  EXPECT_TRUE(kept.ended(5000ms));
  HttpClient hanging = client();
  const ClientReply late = hanging.post(kCompletions, R"({"prompt": "HANG"})");
  EXPECT_EQ(late.status, 504) << late.body;
  const ClientReply cut = client().post(kCompletions, R"({"prompt": "a", "max_tokens": 2000, "stream": true})");
  EXPECT_EQ(cut.status, 200);
  EXPECT_NE(cut.body.find("\"code\":\"timeout\""), std::string::npos);
  EXPECT_TRUE(idle());
}

TEST_F(ServeHttp, Keys) {
  HttpServerOptions options;
  options.api_keys = {"secret-key-1"};
  start(options);
  EXPECT_EQ(client().get("/v1/models").status, 401);
  EXPECT_EQ(client().get("/v1/models", "Authorization: Bearer secret-key-1\r\n").status, 200);
  EXPECT_EQ(client().get("/health").body, R"({"status":"ok","key_required":true})");
  // Refused before the body is read.
  HttpClient one = client();
  one.send("POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n");
  const ClientReply reply = one.read_reply();
  EXPECT_EQ(reply.status, 401);
  EXPECT_EQ(reply.headers.at("www-authenticate"), "Bearer");
}

TEST_F(ServeHttp, OptionsThatAreRefused) {
  FakeEngine any;
  const auto refusal = [&any](HttpServerOptions options) {
    const auto started = HttpServer::start(std::move(options), any, any.tokenizer());
    return started.ok() ? Status() : started.status();
  };
  Status status = refusal({.host = "0.0.0.0", .port = 0});
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("no keys"), std::string::npos) << status.message();
  EXPECT_EQ(refusal({.host = "::", .port = 0}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(refusal({.host = "example.org", .port = 0}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(refusal({.port = 65536}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(refusal({.port = 0, .max_connections = 2'000'000'000}).code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(refusal({.host = "localhost", .port = 0}).ok());
  EXPECT_TRUE(refusal({.host = "0.0.0.0", .port = 0, .api_keys = {"secret-key-1"}}).ok());
  start();
  status = refusal({.port = server->port()});
  EXPECT_EQ(status.code(), StatusCode::kAlreadyExists);
  EXPECT_EQ(status.message(), fmt::format("127.0.0.1:{}: the port is in use by another program; choose another "
                                          "(0: any free one)",
                                          server->port()));
  EXPECT_EQ(server->url(), fmt::format("http://127.0.0.1:{}", server->port()));
}

TEST_F(ServeHttp, FiveHundredConnectionsAtOnce) {
  HttpServerOptions options;
  options.max_connections = 300;
  start(options);
  std::vector<HttpClient> clients;
  for (int i = 0; i < 500; ++i) {
    clients.push_back(client());
    clients.back().send(HttpClient::post_text(kCompletions, R"({"prompt": "a", "max_tokens": 3})"));
  }
  std::map<int, int> statuses;
  for (HttpClient& one : clients) ++statuses[one.read_reply().status];
  EXPECT_GE(statuses[200], 300);
  EXPECT_EQ(statuses[200] + statuses[503] + statuses[0], 500) << "served, told, or closed";
  EXPECT_GT(statuses[503], 0);
  clients.clear();
  EXPECT_TRUE(idle());
  EXPECT_TRUE(all_closed());
  // All of them fit.
  options.max_connections = 600;
  start(options);
  for (int i = 0; i < 500; ++i) clients.push_back(client());
  for (HttpClient& one : clients) {
    one.send(HttpClient::post_text(kCompletions, R"({"prompt": "a", "max_tokens": 3, "stream": true})"));
  }
  for (HttpClient& one : clients) EXPECT_TRUE(one.read_reply().body.ends_with("[DONE]\n\n"));
}

TEST_F(ServeHttp, ShutdownLetsRunningRequestsEnd) {
  start();
  HttpClient running = client(), kept = client(), starting = client();
  running.send(HttpClient::post_text(kCompletions, R"({"prompt": "a", "max_tokens": 500, "stream": true})"));
  running.wait_for("data: ");
  EXPECT_EQ(kept.get("/health").status, 200);
  starting.send("GET /health HTTP/1.1\r\n");
  std::this_thread::sleep_for(50ms);
  std::thread stopping([this] { server->shutdown(); });
  EXPECT_TRUE(kept.ended()) << "an idle connection is closed";
  starting.send(HttpClient::post_text(kCompletions, R"({"prompt": "a"})").insert(0, "Host: localhost\r\n\r\n"));
  const ClientReply draining = starting.read_reply();
  EXPECT_EQ(draining.status, 503) << draining.body;
  EXPECT_EQ(draining.headers.at("connection"), "close");
  EXPECT_TRUE(running.read_reply().body.ends_with("data: [DONE]\n\n"));
  stopping.join();
  EXPECT_THROW(client(), std::runtime_error);
}

TEST_F(ServeHttp, ShutdownThatHurries) {
  for (const bool asked : {true, false}) {
    HttpServerOptions options;
    options.drain_timeout = asked ? 60'000ms : 200ms;
    start(options);
    HttpClient hanging = client(), streaming = client();
    hanging.send(HttpClient::post_text(kCompletions, R"({"prompt": "HANG"})"));
    streaming.send(HttpClient::post_text(kCompletions,
                                         R"({"prompt": "a", "max_tokens": 2000, "ignore_eos": true, "stream": true})"));
    streaming.wait_for("data: ");
    while (metrics()["running"] != 2) std::this_thread::sleep_for(5ms);
    const auto begin = std::chrono::steady_clock::now();
    server->shutdown([asked] { return asked; });
    EXPECT_LT(std::chrono::steady_clock::now() - begin, 20s);
    EXPECT_EQ(hanging.read_reply().status, 503);
    EXPECT_NE(streaming.read_reply().body.find("\"code\":\"cancelled\""), std::string::npos);
    EXPECT_TRUE(idle());
  }
}

TEST_F(ServeHttp, GoesWithoutShutdown) {
  start();
  HttpClient one = client();
  one.send(HttpClient::post_text(kCompletions, R"({"prompt": "HANG", "n": 3})"));
  while (metrics()["running"] != 3) std::this_thread::sleep_for(5ms);
  server.reset();
  EXPECT_TRUE(idle());
  EXPECT_TRUE(one.ended());
}

// Many clients that come, go, ask nonsense and leave in the middle: nothing stays behind.
TEST_F(ServeHttp, AMixedCrowd) {
  start({}, {.step = 50us});
  std::vector<std::thread> crowd;
  for (int t = 0; t < 8; ++t) {
    crowd.emplace_back([this, t] {
      for (int i = 0; i < 25; ++i) {
        HttpClient one = client();
        const int kind = (t + i) % 5;
        int status = 0, wanted = 0;
        if (kind == 0) status = one.get("/metrics").status, wanted = 200;
        if (kind == 1) {
          status = one.post(kCompletions, R"({"prompt": "a", "max_tokens": 8, "n": 2})").status, wanted = 200;
        }
        if (kind == 2) status = one.post("/v1/chat/completions", "{]").status, wanted = 400;
        EXPECT_EQ(status, wanted) << kind;
        if (kind >= 3) {
          one.send(HttpClient::post_text(kCompletions, R"({"prompt": "a", "max_tokens": 1000, "stream": true})"));
          one.wait_for("data: ");
          kind == 3 ? one.reset() : one.close();
        }
      }
    });
  }
  for (std::thread& thread : crowd) thread.join();
  EXPECT_TRUE(idle());
  EXPECT_TRUE(all_closed());
}

}  // namespace
}  // namespace engram
