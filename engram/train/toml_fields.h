// TOML as Fields reads it: a document is JSON that remembers its lines. It is written from JSON too.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engram/core/fields.h"
#include "engram/core/status.h"

namespace engram {

struct TomlDocument {
  nlohmann::json root;
  FieldSource source;

  // kInvalidArgument: "name:line:column: why" for what is not TOML; dates and times.
  static Result<TomlDocument> parse(std::string_view text, const std::string& name);
  // Sets "dotted.key=value". A value that is no TOML value is taken as a string.
  Status set(const std::string& assignment);
};

// (dotted key, TOML text) of every value in the order of `object`, those of nested objects last. The key of a value in
// an array of objects is "array[0].key".
std::vector<std::pair<std::string, std::string>> toml_entries(const nlohmann::ordered_json& object);

}  // namespace engram
