#include "engram/serve/api_fields.h"

#include <cmath>

#include "engram/core/json.h"

namespace engram {

using nlohmann::json;

std::string shown(const json& value) {
  if (value.is_string()) return quote_text(value.get_ref<const std::string&>());
  if (value.is_array()) return "an array";
  if (value.is_object()) return "an object";
  return value.dump();
}

std::optional<int64_t> as_integer(const json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    if (number > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
    return static_cast<int64_t>(number);
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (!value.is_number_float()) return std::nullopt;
  const auto number = value.get<double>();
  if (std::trunc(number) != number || std::abs(number) > 9007199254740992.0) return std::nullopt;
  return static_cast<int64_t>(number);
}

const json* ApiFields::find(const char* key) const { return json_find(object_, key); }

bool ApiFields::flag(const char* key, bool fallback) {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (value->is_boolean()) return value->get<bool>();
  wrong(key, *value, "true or false");
  return fallback;
}

int64_t ApiFields::integer(const char* key, int64_t low, int64_t high, int64_t fallback) {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  const std::optional<int64_t> number = as_integer(*value);
  if (number && *number >= low && *number <= high) return *number;
  wrong(key, *value,
        low == INT64_MIN ? std::string("an integer of 64 bits") : fmt::format("an integer {} .. {}", low, high));
  return fallback;
}

double ApiFields::number(const char* key, double low, double high, double fallback) {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (value->is_number()) {
    const auto number = value->get<double>();
    if (number >= low && number <= high) return number;
  }
  wrong(key, *value, fmt::format("a number {} .. {}", low, high));
  return fallback;
}

std::string ApiFields::text(const char* key, const std::string& fallback) {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (value->is_string()) return value->get<std::string>();
  wrong(key, *value, "a string");
  return fallback;
}

std::string ApiFields::choice(const char* key, std::initializer_list<const char*> choices) {
  const json* value = find(key);
  if (value == nullptr) return *choices.begin();
  std::string wanted;
  for (const char* choice : choices) {
    if (value->is_string() && value->get_ref<const std::string&>() == choice) return choice;
    wanted += fmt::format("{}\"{}\"", wanted.empty() ? "" : " or ", choice);
  }
  wrong(key, *value, wanted);
  return *choices.begin();
}

std::vector<std::string> ApiFields::strings(const char* key, size_t most) {
  const json* value = find(key);
  if (value == nullptr) return {};
  const json list = value->is_array() ? *value : json::array({*value});
  std::vector<std::string> out;
  for (const json& item : list) {
    const bool good = item.is_string() && !item.get_ref<const std::string&>().empty();
    if (!good || out.size() == most) {
      wrong(key, good || !value->is_array() ? *value : item,
            fmt::format("a string that is not empty, or up to {} of them", most));
      return {};
    }
    out.push_back(item.get<std::string>());
  }
  return out;
}

void ApiFields::unserved(const char* key) {
  const json* value = find(key);
  if (value == nullptr || (value->is_boolean() && !value->get<bool>())) return;
  if ((value->is_array() || value->is_object()) && value->empty()) return;
  if (value->is_string() && value->get_ref<const std::string&>().empty()) return;
  fail(key, fmt::format("got {}, and this server does not serve it: leave it out", shown(*value)));
}

void ApiFields::fail(const char* key, const std::string& problem, const std::string& code) {
  if (error_) return;
  const std::string name = where_ + key;
  error_ = bad_request(fmt::format("{}: {}", name, problem), name, code);
}

void ApiFields::wrong(const char* key, const json& got, const std::string& wanted) {
  fail(key, fmt::format("got {}, wanted {}", shown(got), wanted));
}

}  // namespace engram
