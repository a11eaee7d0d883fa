// ApiFields: the fields of a request's body; the first thing wrong is an error in OpenAI's words.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "engram/core/fields.h"
#include "engram/serve/http_types.h"

namespace engram {

class ApiFields : public Fields {
 public:
  // text: what the body was read from. Both outlive this.
  ApiFields(const nlohmann::json& body, std::string_view text) : Fields(body, ""), text_(text) {}

  std::optional<ApiError> error() const;  // its param is the field of the body
  void fail(const char* key, const std::string& problem, const char* code = "");
  // A field that is known and not served: anything but null, false or an empty value is an error.
  void unserved(const char* key);
  std::string_view text() const { return text_; }

 private:
  std::string_view text_;
  std::string code_;
};

// An object, nested no deeper than 64.
std::variant<nlohmann::json, ApiError> parse_body(std::string_view body);

// 404 in OpenAI's words.
ApiError unknown_model(std::string_view name, const std::string& served);
// Whether the body asks for the model that is `served`, or for none; also the error that `fields` has already.
std::optional<ApiError> check_model(ApiFields& fields, const std::string& served);

}  // namespace engram
