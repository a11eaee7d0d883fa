#include "engram/core/status.h"

namespace engram {

const char* status_code_name(StatusCode code) {
  switch (code) {
    case StatusCode::kOk: return "kOk";
    case StatusCode::kCancelled: return "kCancelled";
    case StatusCode::kInvalidArgument: return "kInvalidArgument";
    case StatusCode::kNotFound: return "kNotFound";
    case StatusCode::kAlreadyExists: return "kAlreadyExists";
    case StatusCode::kPermissionDenied: return "kPermissionDenied";
    case StatusCode::kResourceExhausted: return "kResourceExhausted";
    case StatusCode::kFailedPrecondition: return "kFailedPrecondition";
    case StatusCode::kOutOfRange: return "kOutOfRange";
    case StatusCode::kUnimplemented: return "kUnimplemented";
    case StatusCode::kInternal: return "kInternal";
    case StatusCode::kUnavailable: return "kUnavailable";
    case StatusCode::kDataLoss: return "kDataLoss";
  }
  return "unknown";
}

std::string Status::to_string() const { return ok() ? "ok" : fmt::format("{}: {}", status_code_name(code_), message_); }

Status Status::with_context(const std::string& context) const {
  return ok() ? *this : Status(code_, context + ": " + message_);
}

namespace internal {
void check_failed(const char* file, int line, const char* expression, const std::string& values) {
  std::fprintf(stderr, "%s:%d: check failed: %s (%s)\n", file, line, expression, values.c_str());
  std::abort();
}
}  // namespace internal

}  // namespace engram
