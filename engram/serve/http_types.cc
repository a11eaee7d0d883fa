#include "engram/serve/http_types.h"

#include <nlohmann/json.hpp>

namespace engram {
namespace {

nlohmann::ordered_json text_or_null(const std::string& text) {
  return text.empty() ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(text);
}

}  // namespace

std::string json_line(const nlohmann::ordered_json& value) {
  return value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::string ApiError::json() const {
  const nlohmann::ordered_json out = {
      {"error", {{"message", message}, {"type", type}, {"param", text_or_null(param)}, {"code", text_or_null(code)}}}};
  return json_line(out);
}

HttpReply ApiError::reply() const {
  HttpReply out{status, "application/json", json(), {}, message};
  if (status == 429 || status == 503) out.headers.emplace_back("Retry-After", status == 429 ? "1" : "10");
  if (status == 401) out.headers.emplace_back("WWW-Authenticate", "Bearer");
  return out;
}

ApiError bad_request(std::string message, std::string param, std::string code) {
  return {400, std::move(message), "invalid_request_error", std::move(param), std::move(code)};
}

ApiError draining_error() {
  return {503, "the server is shutting down and takes no new requests", "server_error", "", "shutting_down"};
}

ApiError engine_error(const Status& status) {
  switch (status.code()) {
    case StatusCode::kInvalidArgument: return bad_request(status.message());
    case StatusCode::kResourceExhausted: return {429, status.message(), "rate_limit_error", "", "queue_full"};
    case StatusCode::kUnavailable: return {503, status.message(), "server_error", "", "unavailable"};
    case StatusCode::kCancelled: return {503, status.message(), "server_error", "", "cancelled"};
    default: return {500, status.message(), "server_error", "", "engine_failed"};
  }
}

const char* http_reason(int status) {
  switch (status) {
    case 100: return "Continue";
    case 200: return "OK";
    case 204: return "No Content";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 413: return "Payload Too Large";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    default: return "Unknown";
  }
}

}  // namespace engram
