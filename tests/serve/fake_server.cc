// The HTTP server over the fake engine, for tests in other languages: serve_fake MICROSECONDS_PER_STEP [KEY]. A step of
// 0 us: with a resident table. Prints its address; ends with its standard input.
#include <cstdio>
#include <cstdlib>

#include "engram/serve/chat.h"
#include "engram/serve/http_server.h"
#include "tests/serve/fake_engine.h"

int main(int argc, char** argv) {
  const std::chrono::microseconds step(argc > 1 ? std::atoi(argv[1]) : 1000);
  engram::FakeEngine engine({.step = step, .max_context = 4096, .resident = step.count() == 0});
  engram::HttpServerOptions options;
  options.port = 0;
  options.chat_template = engram::kPlainChatTemplate;
  if (argc > 2) options.api_keys = {argv[2]};
  auto server = engram::HttpServer::start(options, engine, engine.tokenizer());
  if (!server.ok()) {
    std::fprintf(stderr, "error: %s\n", server.status().message().c_str());
    return 1;
  }
  std::printf("%s\n", (*server)->url().c_str());
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
  (*server)->shutdown([] { return true; });
  return 0;
}
