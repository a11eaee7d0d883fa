#include "engram/serve/log.h"

#include <spdlog/async_logger.h>
#include <spdlog/details/thread_pool.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace engram {
namespace {

using nlohmann::ordered_json;

constexpr size_t kMostWaiting = 4096;  // lines

spdlog::level::level_enum spdlog_level(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return spdlog::level::debug;
    case LogLevel::kInfo: return spdlog::level::info;
    case LogLevel::kWarning: return spdlog::level::warn;
    case LogLevel::kError: return spdlog::level::err;
    case LogLevel::kOff: break;
  }
  return spdlog::level::off;
}

std::string dump(const ordered_json& value) {
  return value.dump(-1, ' ', /*ensure_ascii=*/true, ordered_json::error_handler_t::replace);
}

bool is_plain(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return c > ' ' && c < '\x7f' && c != '"' && c != '=' && c != '\\';
  });
}

std::string text_line(std::string_view event, const ordered_json& fields) {
  std::string out(event);
  for (const auto& [name, value] : fields.items()) {
    const auto* text = value.get_ptr<const std::string*>();
    out += fmt::format(" {}={}", name, text != nullptr && is_plain(*text) ? *text : dump(value));
  }
  return out;
}

// Without the brace that opens the object: the pattern has it, with time and level.
std::string json_line_end(std::string_view event, const ordered_json& fields) {
  ordered_json out = {{"event", event}};
  out.update(fields);
  return dump(out).substr(1);
}

}  // namespace

struct ServerLog::Impl {
  LogFormat format;
  std::shared_ptr<spdlog::details::thread_pool> thread;  // goes after the logger, when all lines are out
  std::shared_ptr<spdlog::async_logger> logger;
};

ServerLog::ServerLog(LogLevel level, LogFormat format, std::ostream* stream) : impl_(std::make_unique<Impl>()) {
  spdlog::sink_ptr sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  if (stream != nullptr) sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(*stream, /*force_flush=*/true);
  impl_->format = format;
  impl_->thread = std::make_shared<spdlog::details::thread_pool>(kMostWaiting, 1);
  impl_->logger = std::make_shared<spdlog::async_logger>("engram", std::move(sink), impl_->thread,
                                                         spdlog::async_overflow_policy::overrun_oldest);
  impl_->logger->set_level(spdlog_level(level));
  impl_->logger->set_pattern(format == LogFormat::kText ? "%Y-%m-%dT%H:%M:%S.%e%z %l %v"
                                                        : R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l",%v)");
}

ServerLog::~ServerLog() = default;

void ServerLog::write(LogLevel level, std::string_view event, const ordered_json& fields) noexcept {
  try {
    const spdlog::level::level_enum kind = spdlog_level(level);
    if (!impl_->logger->should_log(kind)) return;
    const bool text = impl_->format == LogFormat::kText;
    // The overload that takes text as it is: braces in it mean nothing.
    impl_->logger->log(kind, spdlog::string_view_t(text ? text_line(event, fields) : json_line_end(event, fields)));
  } catch (...) {  // out of memory: the event itself goes on
  }
}

std::optional<uint64_t> RateLimit::pass(std::chrono::steady_clock::time_point now) {
  const std::lock_guard lock(mutex_);
  if (passed_ == 0 || now - begin_ >= period_) {
    begin_ = now;
    passed_ = 0;
  }
  if (passed_ == most_) {
    ++held_;
    return std::nullopt;
  }
  ++passed_;
  return std::exchange(held_, 0);
}

}  // namespace engram
