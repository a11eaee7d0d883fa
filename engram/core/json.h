// JSON read from files we do not trust: a thin layer over nlohmann::json that never throws.
//
// Refused with name, byte position and reason: anything that is not one JSON value in UTF-8, nesting deeper than
// max_depth (hostile nesting must not reach recursive code), duplicate keys in an object, numbers outside double.
// Integers outside 64 bits become doubles, as in nlohmann; Fields (core/fields.h) then refuses them.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram {

inline constexpr int kJsonMaxDepth = 100;

// `name` is the file's name for messages. kDataLoss on any text that is refused.
Result<nlohmann::json> parse_json(std::string_view text, const std::string& name, int max_depth = kJsonMaxDepth);
// For what is written again, or shown: the fields of an object keep the file's order.
Result<nlohmann::ordered_json> parse_ordered_json(std::string_view text, const std::string& name,
                                                  int max_depth = kJsonMaxDepth);
// The same for a whole file; Env's errors pass through.
Result<nlohmann::json> read_json_file(Env& env, const std::string& path);

// The value of a key, or nullptr when `object` is not an object, has no such key, or holds null there.
const nlohmann::json* json_find(const nlohmann::json& object, const std::string& key);

// Untrusted text for one line of an error message: quoted, control characters and broken UTF-8 as \xNN, cut after
// max_bytes.
std::string quote_text(std::string_view text, size_t max_bytes = 60);

}  // namespace engram
