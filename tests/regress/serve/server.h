// A server over the fake engine, for tests that misbehave towards it.
#pragma once
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "engram/serve/http_server.h"
#include "tests/serve/fake_engine.h"
#include "tests/serve/http_client.h"

namespace engram {

struct ServeRegress : testing::Test {
  void start(HttpServerOptions options = {}) {
    options.port = 0;
    server = value_or_throw(HttpServer::start(std::move(options), engine, engine.tokenizer()));
  }
  HttpClient client() const { return HttpClient(server->port()); }
  int health() const { return client().get("/health").status; }

  FakeEngine engine;
  std::unique_ptr<HttpServer> server;  // goes first
};

}  // namespace engram
