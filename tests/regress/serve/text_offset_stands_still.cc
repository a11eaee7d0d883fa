// With logprobs, text_offset stood still while text was held back because it might begin a stop string. Right: a
// token's offset is where its text begins, whether or not that text was shown yet.
#include <nlohmann/json.hpp>

#include "tests/regress/serve/server.h"

namespace engram {
namespace {

using nlohmann::json;

TEST_F(ServeRegress, TextOffsetStandsStill) {
  start();
  // The engine says "The memory of a model ...", a byte a token.
  const char* body = R"({"prompt": "a", "max_tokens": 12, "temperature": 0, "logprobs": 1, "stop": "The memory x"})";
  const json choice = json::parse(client().post("/v1/completions", body).body)["choices"][0];
  EXPECT_EQ(choice["text"], "The memory o");
  EXPECT_EQ(choice["logprobs"]["text_offset"], json({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
}

TEST_F(ServeRegress, TextOffsetCountsCharactersOfManyTokens) {
  FakeEngine chinese({.text = "\u6f22a"});  // three bytes, then one
  auto other = value_or_throw(HttpServer::start({.port = 0}, chinese, chinese.tokenizer()));
  const char* body = R"({"prompt": "a", "max_tokens": 6, "temperature": 0, "logprobs": 1})";
  const json choice = json::parse(HttpClient(other->port()).post("/v1/completions", body).body)["choices"][0];
  EXPECT_EQ(choice["logprobs"]["text_offset"], json({0, 0, 0, 1, 2, 2}));
}

}  // namespace
}  // namespace engram
