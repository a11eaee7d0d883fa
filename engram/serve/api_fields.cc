#include "engram/serve/api_fields.h"

#include "engram/core/json.h"

namespace engram {

using nlohmann::json;

std::optional<ApiError> ApiFields::error() const {
  if (status().ok()) return std::nullopt;
  return bad_request(status().message(), failed().substr(0, failed().find_first_of(".[")), code_);
}

void ApiFields::fail(const char* key, const std::string& problem, const char* code) {
  if (status().ok()) code_ = code;
  Fields::fail(key, problem);
}

void ApiFields::unserved(const char* key) {
  const json* value = find(key);
  if (value == nullptr || *value == false || *value == "") return;
  if (value->is_structured() && value->empty()) return;
  fail(key, fmt::format("got {}, and this server does not serve it: leave it out", shown(*value)));
}

std::variant<json, ApiError> parse_body(std::string_view body) {
  constexpr int kMaxDepth = 64;
  Result<json> value = parse_json(body, "request body", kMaxDepth);
  if (!value.ok()) return bad_request(value.status().message());
  if (!value->is_object()) return bad_request(fmt::format("request body: got {}, wanted an object", shown(*value)));
  return std::move(value).value();
}

ApiError unknown_model(std::string_view name, const std::string& served) {
  return {404, fmt::format("model: got {}, and this server has {}", quote_text(name), quote_text(served)),
          "invalid_request_error", "model", "model_not_found"};
}

std::optional<ApiError> check_model(ApiFields& fields, const std::string& served) {
  std::string name = served;
  fields("model", name);
  if (fields.error() || name == served) return fields.error();
  return unknown_model(name, served);
}

}  // namespace engram
