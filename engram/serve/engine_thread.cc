// Only run() and what it calls touch engine_, except for what any thread may call (check(), options(), store_stats()).
// mutex_ guards what other threads hand over (submitted_, cancelled_) and the copies that they look at (metrics_,
// health_, failure_). It is not held while the engine works, and callbacks run without it. drain() misses no request:
// loop() takes submitted_ and sets busy_ in one critical section, and clears busy_ only when no work is left.
#include "engram/serve/engine_thread.h"

#include <nlohmann/json.hpp>
#include <utility>

namespace engram {
namespace {

GenerationEvent failed_event(const Status& error) {
  GenerationEvent event;
  event.finish = FinishReason::kError;
  event.error = error;
  return event;
}

}  // namespace

EngineThread::EngineThread(std::unique_ptr<LLMEngine> engine, std::shared_ptr<ServerLog> log)
    : engine_(std::move(engine)),
      info_(engine_->info()),
      log_(std::move(log)),
      step_log_(log_),
      metrics_(engine_->metrics()),
      thread_([this] { run(); }) {}

EngineThread::~EngineThread() {
  {
    const std::lock_guard lock(mutex_);
    draining_ = stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

Result<uint64_t> EngineThread::submit(GenerationRequest request, OnEvent on_event) {
  ENGRAM_RETURN_IF_ERROR(engine_->check(request));
  uint64_t id = 0;
  {
    const std::lock_guard lock(mutex_);
    if (!failure_.ok()) return Status(StatusCode::kUnavailable, failure_.message());
    if (draining_) return Status(StatusCode::kUnavailable, "the server is shutting down");
    const int64_t waiting = metrics_.waiting + static_cast<int64_t>(submitted_.size());
    if (waiting >= engine_->options().max_waiting) {
      return Status(StatusCode::kResourceExhausted, fmt::format("{} requests are waiting already; try later", waiting));
    }
    id = next_id_++;
    submitted_.push_back({id, std::move(request), std::move(on_event)});
  }
  wake_.notify_one();
  return id;
}

void EngineThread::cancel(uint64_t id) {
  {
    const std::lock_guard lock(mutex_);
    cancelled_.push_back(id);
  }
  wake_.notify_one();
}

void EngineThread::drain() {
  std::unique_lock lock(mutex_);
  draining_ = true;
  idle_.wait(lock, [this] { return (submitted_.empty() && !busy_) || !failure_.ok(); });
}

Status EngineThread::health() const {
  const std::lock_guard lock(mutex_);
  return failure_.ok() ? health_ : failure_;
}

Status EngineThread::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

EngineMetrics EngineThread::metrics() const {
  EngineMetrics out;
  {
    const std::lock_guard lock(mutex_);
    out = metrics_;
    out.waiting += static_cast<int64_t>(submitted_.size());
    if (!busy_) out.tokens_per_second = 0;
  }
  out.stores = engine_->store_stats();
  return out;
}

void EngineThread::run() noexcept {
  try {
    loop();
  } catch (const std::exception& error) {
    stop_for_good(error.what());
  } catch (...) {
    stop_for_good("an exception of no known kind");
  }
}

// The scheduler may be in the middle of anything: no request can go on, and none may be left without an answer.
void EngineThread::stop_for_good(const std::string& why) noexcept {
  try {
    const Status error(StatusCode::kInternal, fmt::format("the engine has stopped: {}", why));
    if (log_) log_->write(LogLevel::kError, "engine stopped", {{"cause", why}});
    engine_->abandon(error);
    std::unique_lock lock(mutex_);
    failure_ = error;
    const std::vector<Submitted> submitted = std::exchange(submitted_, {});
    lock.unlock();
    for (const Submitted& one : submitted) {
      if (one.on_event) one.on_event(failed_event(error));
    }
  } catch (const std::exception&) {  // no memory for the words
    const std::lock_guard lock(mutex_);
    if (failure_.ok()) failure_ = Status(StatusCode::kInternal, "out of memory");
  }
  idle_.notify_all();
}

// A request that cannot even be taken in fails alone.
void EngineThread::take_in(std::vector<Submitted> submitted, const std::vector<uint64_t>& cancelled) {
  for (Submitted& one : submitted) {
    try {
      engine_->add(one.id, std::move(one.request), one.on_event);
    } catch (const std::exception& error) {
      if (one.on_event) one.on_event(failed_event(internal_error(error)));
    }
  }
  for (const uint64_t id : cancelled) engine_->cancel(id);
}

void EngineThread::loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stopping_ || !submitted_.empty() || !cancelled_.empty() || engine_->has_work(); });
    std::vector<Submitted> submitted = std::exchange(submitted_, {});
    const std::vector<uint64_t> cancelled = std::exchange(cancelled_, {});
    const bool stopping = stopping_;
    const EngineMetrics before = metrics_;
    busy_ = true;
    lock.unlock();
    take_in(std::move(submitted), cancelled);
    if (stopping) engine_->cancel_all();
    if (engine_->has_work()) engine_->step();
    const EngineMetrics metrics = engine_->metrics();
    const bool busy = engine_->has_work();
    step_log_.report(before, metrics, engine_->health());
    lock.lock();
    metrics_ = metrics;
    health_ = engine_->health();
    busy_ = busy;
    if (!busy && submitted_.empty()) idle_.notify_all();
    if (stopping && !busy && submitted_.empty()) return;
  }
}

}  // namespace engram
