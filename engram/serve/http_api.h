// HttpApi: from a request to its reply, without sockets: routes, keys, methods, bodies.
//
// Most requests are answered at once; a completion or a trace comes back as the GenerationCall that its answer needs.
//
//   GET  / (the page)  /openapi.json  /health     open to all
//   GET  /v1/models  /v1/models/NAME  /tokenizer_info  /metrics  /metrics.json
//   POST /v1/completions  /v1/chat/completions  /v1/memory/trace  /tokenize  /detokenize
//
// Immutable except for its counters; any thread.
#pragma once
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "engram/serve/api_keys.h"
#include "engram/serve/engine.h"
#include "engram/serve/http_types.h"
#include "engram/serve/openai_api.h"
#include "engram/serve/prometheus.h"
#include "engram/text/tokenizer.h"

namespace engram {

class HttpApi {
 public:
  // Engine and tokenizer outlive it. No keys: every client may do everything.
  HttpApi(const Engine& engine, const Tokenizer& tokenizer, std::string chat_template, int max_choices,
          const std::vector<std::string>& api_keys);

  // What refuses a request whose body has not been read; nothing when it may continue. Once for each request.
  std::optional<HttpReply> refuse(const HttpRequest& head) const;
  // REQUIRES: refuse() had nothing against it, and the body is there. The bytes of the body may be any.
  std::variant<HttpReply, GenerationCall> answer(const HttpRequest& request, bool draining) const;

  // The route of a path as the counters name it.
  static const char* route_name(const std::string& path);

  const ApiModel& model() const { return model_; }
  HttpCounters& counters() const { return counters_; }

 private:
  HttpReply get(const std::string& route, const HttpRequest& request, bool draining) const;
  HttpReply models(const std::string& path) const;

  const Engine& engine_;
  ApiModel model_;
  ApiKeys keys_;
  mutable HttpCounters counters_;
};

}  // namespace engram
