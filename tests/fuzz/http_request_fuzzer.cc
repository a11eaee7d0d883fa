// The request layer without sockets: bytes -> requests -> replies or generation calls. The first byte chooses:
//   R  the rest is what a connection sends, cut after as many bytes as the second byte says
//   C, H, T  the rest is the body of a completion, a chat, a trace
// Every reply has a known status and, where it is an error, OpenAI's body; every call that is to be generated is one
// that an engine takes, and its answer is JSON whatever the texts.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "engram/serve/answer.h"
#include "engram/serve/chat.h"
#include "engram/serve/http_api.h"
#include "engram/serve/request_reader.h"

namespace {

using namespace engram;

class NoEngine : public Engine {
 public:
  NoEngine() {
    info_.model = "m";
    info_.vocab_size = 257;
    info_.max_context = 64;
    info_.bos = info_.eos = 0;
    info_.layer_ids = {1};
    info_.max_ngram_size = 3;
  }
  Result<uint64_t> submit(GenerationRequest, OnEvent) override { return uint64_t{1}; }
  void cancel(uint64_t) override {}
  void drain() override {}
  EngineMetrics metrics() const override { return {}; }
  const EngineInfo& info() const override { return info_; }

 private:
  EngineInfo info_;
};

struct Fixture {
  NoEngine engine;
  Tokenizer tokenizer = value_or_throw(Tokenizer::parse(Tokenizer::byte_level_json({"<|endoftext|>"}), "bytes"));
  HttpApi api{engine, tokenizer, std::string(kPlainChatTemplate), 4, {}};
};

Fixture& fixture() {
  static Fixture one;
  return one;
}

void check_reply(const HttpReply& reply) {
  ENGRAM_CHECK(std::string(http_reason(reply.status)) != "Unknown", "status {}", reply.status);
  for (const auto& [name, value] : reply.headers) {
    ENGRAM_CHECK(value.find_first_of("\r\n") == std::string::npos, "header {} of two lines", name);
  }
  if (reply.status < 400) return;
  const auto body = nlohmann::json::parse(reply.body);
  ENGRAM_CHECK(body["error"]["message"].is_string() || body.contains("status"), "{}", reply.body);
}

void check_call(const GenerationCall& call) {
  const EngineInfo& info = fixture().engine.info();
  ENGRAM_CHECK(!call.requests.empty() && call.requests.size() <= 4, "{} requests", call.requests.size());
  Answer answer(info, fixture().tokenizer, call);
  std::string stream = answer.begin();
  for (size_t i = 0; i < call.requests.size(); ++i) {
    const GenerationRequest& request = call.requests[i];
    ENGRAM_CHECK(request.sampling.validate().ok(), "{}", request.sampling.validate().message());
    ENGRAM_CHECK(!request.prompt.empty(), "no prompt");
    ENGRAM_CHECK(static_cast<int>(request.prompt.size()) + request.sampling.max_tokens <= info.max_context, "too long");
    GenerationEvent event;
    event.token = request.prompt.back();
    event.text = "t";
    for (const int32_t token : request.prompt) {
      ENGRAM_CHECK(token >= 0 && token < info.vocab_size, "token {}", token);
      if (request.trace) event.trace.push_back({token, {LayerTrace{1, {0.5F}, {token}, {"drive"}}}});
    }
    if (request.sampling.logprobs >= 0) event.logprob = TokenScore{{event.token, -1.0F}, {}};
    if (request.sampling.prompt_logprobs >= 0) {
      for (const int32_t token : request.prompt) event.prompt_logprobs.push_back({{token, -1.0F}, {{token, -1.0F}}});
    }
    for (const auto& [token, bias] : request.sampling.logit_bias) {
      ENGRAM_CHECK(token >= 0 && token < info.vocab_size && std::abs(bias) <= 100, "bias of {}: {}", token, bias);
    }
    event.finish = FinishReason::kStop;
    stream += answer.on_event(i, event);
  }
  ENGRAM_CHECK(answer.done() && !answer.error(), "not done");
  if (!call.stream) return check_reply(answer.reply());
  ENGRAM_CHECK(stream.ends_with("\n\n") && answer.end().ends_with("[DONE]\n\n"), "{}", stream);
}

void check_request(const HttpRequest& request) {
  if (const auto refusal = fixture().api.refuse(request)) return check_reply(*refusal);
  auto answer = fixture().api.answer(request, false);
  if (const auto* reply = std::get_if<HttpReply>(&answer)) return check_reply(*reply);
  check_call(std::get<GenerationCall>(answer));
}

void read_connection(std::string_view bytes, size_t piece) {
  RequestReader reader({.max_header_bytes = 1024, .max_body_bytes = 4096});
  for (size_t at = 0; at < bytes.size(); at += piece) {
    reader.append(bytes.substr(at, piece));
    for (auto state = reader.advance(); state != RequestReader::State::kNeedMore; state = reader.advance()) {
      if (state == RequestReader::State::kBad) return check_reply(reader.error().reply());
      if (state == RequestReader::State::kWhole) check_request(reader.take());
      if (state == RequestReader::State::kHead) {
        if (const auto refusal = fixture().api.refuse(reader.request())) check_reply(*refusal);
      }
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  if (input[0] == 'R') {
    read_connection(input.substr(2), std::max<size_t>(data[1], 1));
    return 0;
  }
  HttpRequest request;
  request.method = "POST";
  const std::map<char, const char*> paths = {
      {'C', "/v1/completions"}, {'H', "/v1/chat/completions"}, {'K', "/tokenize"}, {'D', "/detokenize"}};
  const auto path = paths.find(input[0]);
  request.path = path == paths.end() ? "/v1/memory/trace" : path->second;
  request.content_type = "application/json";
  request.body = input.substr(1);
  check_request(request);
  return 0;
}
