#include "engram/train/metrics_log.h"

#include <span>

#include "engram/core/json.h"

namespace engram {
namespace {

// Bytes of the lines of steps 1..step, and "seconds" of the last of them.
Result<int64_t> bytes_until(const std::string& text, const std::string& path, int64_t step, double& seconds) {
  size_t begin = 0;
  for (int64_t line = 1; line <= step; ++line) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos)
      return data_loss("{}: got {} whole lines, wanted {}: one per step of the checkpoint", path, line - 1, step);
    ENGRAM_ASSIGN_OR_RETURN(const nlohmann::json json,
                            parse_json(std::string_view(text).substr(begin, end - begin), path));
    ENGRAM_ASSIGN_OR_RETURN(const int64_t got, json_integer(json, "step", path));
    if (got != line) return data_loss("{}: line {}: got step {}, wanted {}", path, line, got, line);
    if (line == step) {
      ENGRAM_ASSIGN_OR_RETURN(seconds, json_number(json, "seconds", path));
    }
    begin = end + 1;
  }
  return static_cast<int64_t>(begin);
}

}  // namespace

Result<std::unique_ptr<MetricsLog>> MetricsLog::open(Env& env, const std::string& path, int64_t step) {
  std::string text;
  if (env.file_exists(path)) {
    ENGRAM_ASSIGN_OR_RETURN(text, env.read_file(path));
  }
  std::unique_ptr<MetricsLog> log(new MetricsLog);
  ENGRAM_ASSIGN_OR_RETURN(const int64_t keep, bytes_until(text, path, step, log->last_seconds_));
  if (keep < static_cast<int64_t>(text.size())) ENGRAM_RETURN_IF_ERROR(env.truncate_file(path, keep));
  ENGRAM_ASSIGN_OR_RETURN(log->file_, env.new_appendable_file(path));
  return log;
}

Status MetricsLog::append(const nlohmann::ordered_json& line) {
  const std::string text = line.dump() + "\n";
  return file_->append(std::as_bytes(std::span(text)));
}

Status MetricsLog::sync() { return file_->sync(); }

}  // namespace engram
