#include "engram/serve/step_log.h"

#include <nlohmann/json.hpp>
#include <utility>

namespace engram {
namespace {

constexpr double kSlowStepSeconds = 2;
constexpr std::chrono::seconds kLinePeriod{10};

}  // namespace

StepLog::StepLog(std::shared_ptr<ServerLog> log)
    : log_(std::move(log)), preemption_lines_(1, kLinePeriod), slow_step_lines_(1, kLinePeriod) {}

void StepLog::report(const EngineMetrics& before, const EngineMetrics& now, const Status& health) {
  if (!log_) return;
  if (now.preemptions > told_preemptions_ && preemption_lines_.pass()) {
    log_->write(LogLevel::kWarning, "preempted: the pages for keys and values are full",
                {{"sequences", now.preemptions - told_preemptions_},
                 {"running", now.running},
                 {"waiting", now.waiting},
                 {"kv_blocks", now.kv_blocks_total}});
    told_preemptions_ = now.preemptions;
  }
  const double seconds = now.step_seconds - before.step_seconds;
  if (const auto held_back = seconds > kSlowStepSeconds ? slow_step_lines_.pass() : std::nullopt) {
    log_->write(LogLevel::kWarning, "slow step",
                {{"seconds", seconds},
                 {"stall_seconds", now.stall_seconds - before.stall_seconds},
                 {"sequences", now.last_batch},
                 {"lines_left_out", *held_back}});
  }
  if (!health.ok() && !std::exchange(told_trouble_, true)) {
    log_->write(LogLevel::kError, "degraded: some requests fail, others go on", {{"cause", health.message()}});
  }
}

}  // namespace engram
