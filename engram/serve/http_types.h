// What passes between the socket and the API: a request that is whole, and the reply to it. Plain values.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "engram/core/status.h"

namespace engram {

// On one line; bytes that are no UTF-8 come out as U+FFFD.
std::string json_line(const nlohmann::ordered_json& value);

struct HttpRequest {
  std::string method;  // as sent
  std::string path;    // of the target, without query; not decoded (no route needs it)
  bool http_1_0 = false;
  bool keep_alive = true;        // what the client's version and Connection header ask for
  bool expect_continue = false;  // waits for 100 before it sends the body
  bool has_body = false;         // a length above zero, or chunked
  std::string host, authorization, content_type;
  std::string request_id;  // what the client or a proxy calls it; empty: nothing, or what no header may hold
  std::string body;        // empty while only the head is there
};

struct HttpReply {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;  // others: Allow, Retry-After, ...
  std::string cause;                                         // of an error, for the log; not sent
};

// An error as OpenAI's clients read it.
struct ApiError {
  int status = 400;
  std::string message;
  std::string type = "invalid_request_error";
  std::string param;  // the field at fault; empty: null
  std::string code;   // empty: null

  std::string json() const;  // {"error":{"message","type","param","code"}}
  HttpReply reply() const;   // with Retry-After where trying again makes sense
};

// The errors that more than one place gives.
ApiError bad_request(std::string message, std::string param = "", std::string code = "");
ApiError draining_error();
// How an engine's refusal or failure looks to a client: kInvalidArgument 400, kResourceExhausted 429, kUnavailable and
// kCancelled 503, the rest 500.
ApiError engine_error(const Status& status);

const char* http_reason(int status);

}  // namespace engram
