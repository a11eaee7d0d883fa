// What commands that compute with torch share: settings of the whole process, and the weights' type.
#pragma once
#include <c10/core/ScalarType.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>

namespace engram::apps {

// Before the first thread starts: threads of the arithmetic (0: as many as torch chooses), and denormals flushed to
// zero: they are slow, and training, evaluation and serving must round alike.
void set_up_torch(int64_t threads = 0);

// --dtype of the weights on the CPU, and what LoadOptions take for it.
void add_dtype_option(CLI::App& command, std::string& dtype);
std::optional<c10::ScalarType> parse_weights(const std::string& dtype);

}  // namespace engram::apps
