// Status and Result<T>: how code that does not call torch reports what can go wrong.
//
// What can happen (I/O, a bad file, a bad request) is a Status; what cannot happen is an ENGRAM_CHECK, which
// prints its values and aborts. Messages say what, where, got, wanted and, where known, the fix; the command line
// prints them behind "error: " on one line. Code names are absl's. Not for torch code, which throws (TORCH_CHECK);
// value_or_throw() crosses that border.
#pragma once
#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

namespace engram {

enum class StatusCode {
  kOk = 0,
  kCancelled,
  kInvalidArgument,
  kNotFound,
  kAlreadyExists,
  kPermissionDenied,
  kResourceExhausted,
  kFailedPrecondition,
  kOutOfRange,
  kUnimplemented,
  kInternal,
  kUnavailable,
  kDataLoss,
};

const char* status_code_name(StatusCode code);

// Value type. A default-constructed Status is ok and owns nothing.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }
  // "kDataLoss: message"; "ok" when ok.
  std::string to_string() const;
  // The same code, "context: message". Ok stays ok.
  Status with_context(const std::string& context) const;

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

template <typename... Args>
Status make_status(StatusCode code, fmt::format_string<Args...> format, Args&&... args) {
  return Status(code, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
Status invalid_argument(fmt::format_string<Args...> format, Args&&... args) {
  return Status(StatusCode::kInvalidArgument, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
Status data_loss(fmt::format_string<Args...> format, Args&&... args) {
  return Status(StatusCode::kDataLoss, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
Status not_found(fmt::format_string<Args...> format, Args&&... args) {
  return Status(StatusCode::kNotFound, fmt::format(format, std::forward<Args>(args)...));
}

// A value or the Status that says why there is none. The shape of std::expected.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}         // NOLINT: implicit on purpose
  Result(Status status) : status_(std::move(status)) {  // NOLINT: implicit on purpose
    if (status_.ok()) {
      std::fputs("Result built from an ok Status without a value\n", stderr);
      std::abort();
    }
  }

  bool ok() const { return value_.has_value(); }
  explicit operator bool() const { return ok(); }
  const Status& status() const { return status_; }
  // REQUIRES: ok().
  T& value() & { return *value_; }
  const T& value() const& { return *value_; }
  T&& value() && { return *std::move(value_); }
  T& operator*() & { return *value_; }
  const T& operator*() const& { return *value_; }
  T* operator->() { return &*value_; }
  const T* operator->() const { return &*value_; }

 private:
  Status status_;
  std::optional<T> value_;
};

// From Status to exceptions, for torch code and tests.
template <typename T>
T value_or_throw(Result<T> result) {
  if (!result.ok()) throw std::runtime_error(result.status().message());
  return std::move(result).value();
}
inline void throw_if_error(const Status& status) {
  if (!status.ok()) throw std::runtime_error(status.message());
}

namespace internal {
[[noreturn]] void check_failed(const char* file, int line, const char* expression, const std::string& values);
}

}  // namespace engram

#define ENGRAM_CONCAT_INNER(a, b) a##b
#define ENGRAM_CONCAT(a, b) ENGRAM_CONCAT_INNER(a, b)

#define ENGRAM_RETURN_IF_ERROR(expression)                                                           \
  do {                                                                                               \
    if (::engram::Status engram_status_ = (expression); !engram_status_.ok()) return engram_status_; \
  } while (false)

// ENGRAM_ASSIGN_OR_RETURN(auto file, SafetensorsFile::open(env, path));
#define ENGRAM_ASSIGN_OR_RETURN(declaration, expression) \
  ENGRAM_ASSIGN_OR_RETURN_IMPL(ENGRAM_CONCAT(engram_result_, __LINE__), declaration, expression)
#define ENGRAM_ASSIGN_OR_RETURN_IMPL(result, declaration, expression) \
  auto result = (expression);                                         \
  if (!result.ok()) return result.status();                           \
  declaration = std::move(result).value()

// ENGRAM_CHECK(a == b, "a={} b={}", a, b): for what cannot happen.
#define ENGRAM_CHECK(condition, ...)                                                              \
  do {                                                                                            \
    if (!(condition)) [[unlikely]]                                                                \
      ::engram::internal::check_failed(__FILE__, __LINE__, #condition, fmt::format(__VA_ARGS__)); \
  } while (false)
