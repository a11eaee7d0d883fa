// What a training run left in its OUTPUT and its log, read by those who started it as a child process.
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram {

// Every whole line of OUTPUT/metrics.jsonl.
Result<std::vector<nlohmann::ordered_json>> read_metrics(Env& env, const std::string& output);

struct RunMetrics {
  int64_t step = 0;
  double loss = 0, tokens_per_second = 0;
};
// The last whole line of OUTPUT/metrics.jsonl; zeros while there is none. Reads the end of the file only.
RunMetrics last_metrics(Env& env, const std::string& output);

// The last line that a program printed: of a failed run its error line, of `engram train --json` its result.
std::string last_log_line(Env& env, const std::string& path);

}  // namespace engram
