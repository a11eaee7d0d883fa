// parse_json() for what is written again, or shown: the fields of an object keep the file's order.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "engram/core/json.h"

namespace engram {

// As parse_json(): refuses the same texts in the same words.
Result<nlohmann::ordered_json> parse_ordered_json(std::string_view text, const std::string& name,
                                                  int max_depth = kJsonMaxDepth);

}  // namespace engram
