// Eight posts with 1 MB of text were tokenised whole on the threads of the sockets, and /health waited 2.5 s. Right:
// more bytes than the context's tokens can hold are refused before they are tokenised; what is tokenised is so
// elsewhere.
#include <nlohmann/json.hpp>
#include <vector>

#include "engram/serve/prompt_limit.h"
#include "tests/regress/serve/server.h"

namespace engram {
namespace {

TEST_F(ServeRegress, ALongPromptIsTokenisedBeforeItIsRefused) {
  start();
  std::string text;
  while (text.size() < 1'000'000) text += "\u6f22\u5b57";
  std::vector<HttpClient> clients;
  for (int i = 0; i < 8; ++i) {
    clients.push_back(client());
    clients.back().send(HttpClient::post_text("/v1/completions", "{\"prompt\": \"" + text + "\"}"));
  }
  for (HttpClient& one : clients) {
    const ClientReply reply = one.read_reply();
    EXPECT_EQ(reply.status, 400);
    EXPECT_NE(reply.body.find("1000002 bytes of text"), std::string::npos) << reply.body;
    EXPECT_NE(reply.body.find("context_length_exceeded"), std::string::npos) << reply.body;
  }
}

TEST_F(ServeRegress, TheLimitHoldsForTokenizersThatKeepAllText) {
  const auto limit = [](const std::string& from, const std::string& to) {
    std::string json = Tokenizer::byte_level_json({"<|endoftext|>"});
    const size_t at = json.find(from);
    EXPECT_NE(at, std::string::npos) << json.substr(0, 2000);
    json.replace(at, from.size(), to);
    return most_prompt_bytes(value_or_throw(Tokenizer::parse(json, "test")), 100);
  };
  EXPECT_EQ(limit("\"normalizer\"", "\"normalizer\""), 1300U) << "<|endoftext|> has 13 bytes";
  EXPECT_EQ(limit("\"normalizer\": null", R"("normalizer":{"type":"Sequence","normalizers":[]})"), 1300U);
  EXPECT_EQ(limit("\"normalizer\": null", R"("normalizer":{"type":"NFC"})"), std::nullopt);
  EXPECT_EQ(limit("\"rstrip\": false", "\"rstrip\":true"), std::nullopt);
}

}  // namespace
}  // namespace engram
