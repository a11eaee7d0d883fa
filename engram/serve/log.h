// ServerLog: what a running server tells its operator, a line for each event (over spdlog).
//
//   text  2026-11-30T04:05:06.789+00:00 warning request failed id=req-7 status=400 cause="prompt: missing"
//   json  {"time":"2026-11-30T04:05:06.789+00:00","level":"warning","event":"request failed","id":"req-7",...}
//
// An event is always one line: text of a client is quoted and escaped. Lines are written by a thread of the log, so a
// reader that stops reading costs lines (the oldest first) and never delays the server.
#pragma once
#include <chrono>
#include <cstdint>
#include <iosfwd>
#include <memory>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace engram {

enum class LogFormat { kText, kJson };
enum class LogLevel { kDebug, kInfo, kWarning, kError, kOff };

// Thread-safe; nothing here throws. The destructor waits until all lines are out.
class ServerLog {
 public:
  // Lines go to the standard error, or to `stream`, which outlives the log.
  ServerLog(LogLevel level, LogFormat format, std::ostream* stream = nullptr);
  ~ServerLog();

  // fields: an object whose values are numbers or text.
  void write(LogLevel level, std::string_view event, const nlohmann::ordered_json& fields) noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Lets `most` events pass in each period. Thread-safe.
class RateLimit {
 public:
  RateLimit(uint64_t most, std::chrono::steady_clock::duration period) : most_(most), period_(period) {}
  // Nothing: hold it back. Else how many were held back since the last one that passed.
  std::optional<uint64_t> pass(std::chrono::steady_clock::time_point now = std::chrono::steady_clock::now());

 private:
  const uint64_t most_;
  const std::chrono::steady_clock::duration period_;
  std::mutex mutex_;
  std::chrono::steady_clock::time_point begin_{};
  uint64_t passed_ = 0, held_ = 0;
};

}  // namespace engram
