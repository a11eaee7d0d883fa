// ApiFields: reads the fields of a JSON body, strictly. The first thing wrong is kept; everything after it gives
// fallbacks, so that a reader asks for all its fields and looks for the error once.
//
// A field that is absent or null has its fallback. Messages name the field, what it got and what it wanted.
#pragma once
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engram/serve/http_types.h"

namespace engram {

class ApiFields {
 public:
  // `where` goes before the names of fields ("messages[2]."); `object` must be one and outlive this.
  explicit ApiFields(const nlohmann::json& object, std::string where = "")
      : object_(object), where_(std::move(where)) {}

  const nlohmann::json* find(const char* key) const;  // nullptr: absent or null
  bool flag(const char* key, bool fallback);
  // A number without a fraction is an integer, however it is written (16.0 too).
  int64_t integer(const char* key, int64_t low, int64_t high, int64_t fallback);
  double number(const char* key, double low, double high, double fallback);
  std::string text(const char* key, const std::string& fallback);
  // One of `choices`; the first is the fallback.
  std::string choice(const char* key, std::initializer_list<const char*> choices);
  // One string or up to `most` of them, none empty.
  std::vector<std::string> strings(const char* key, size_t most);
  // A field that is known and not served: anything but null, false or an empty value is an error.
  void unserved(const char* key);

  void fail(const char* key, const std::string& problem, const std::string& code = "");
  void wrong(const char* key, const nlohmann::json& got, const std::string& wanted);
  const std::optional<ApiError>& error() const { return error_; }

 private:
  const nlohmann::json& object_;
  std::string where_;
  std::optional<ApiError> error_;
};

// A JSON value for a message: numbers as they are, text quoted and cut, the rest by type.
std::string shown(const nlohmann::json& value);
// Without a fraction and within 64 bits; else nothing.
std::optional<int64_t> as_integer(const nlohmann::json& value);

}  // namespace engram
