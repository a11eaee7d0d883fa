#include "engram/train/metrics_log.h"

#include <span>

#include "engram/core/fields.h"
#include "engram/core/json.h"

namespace engram {
namespace {

// Bytes of the lines of steps 1..step; `last` becomes the last of them. Its numbers are numbers.
Result<int64_t> bytes_until(const std::string& text, const std::string& path, int64_t step, nlohmann::json& last) {
  size_t begin = 0;
  for (int64_t line = 1; line <= step; ++line) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos)
      return data_loss("{}: got {} whole lines, wanted {}: one per step of the checkpoint", path, line - 1, step);
    ENGRAM_ASSIGN_OR_RETURN(last, parse_json(std::string_view(text).substr(begin, end - begin), path));
    ENGRAM_ASSIGN_OR_RETURN(const int64_t got, read_field<int64_t>(last, "step", path));
    if (got != line) return data_loss("{}: line {}: got step {}, wanted {}", path, line, got, line);
    begin = end + 1;
  }
  for (const char* key : {"seconds", "loss", "validation_loss", "bits_per_byte"})
    if (last.contains(key)) ENGRAM_RETURN_IF_ERROR(read_field<double>(last, key, path).status());
  return static_cast<int64_t>(begin);
}

}  // namespace

Result<std::unique_ptr<MetricsLog>> MetricsLog::open(Env& env, const std::string& path, int64_t step) {
  std::string text;
  if (env.file_exists(path)) {
    ENGRAM_ASSIGN_OR_RETURN(text, env.read_file(path, {.max_bytes = INT64_MAX}));
  }
  std::unique_ptr<MetricsLog> log(new MetricsLog);
  ENGRAM_ASSIGN_OR_RETURN(const int64_t keep, bytes_until(text, path, step, log->last_line_));
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
