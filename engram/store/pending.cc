#include "engram/store/pending.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>

namespace engram {

struct internal::ReadState {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  Status status;
  std::function<void(const Status&)> on_done;
  std::shared_ptr<LatencyHistogram> stall;

  // The Status, after it is there.
  Status wait() {
    std::unique_lock lock(mutex);
    if (done) return status;
    const auto start = std::chrono::steady_clock::now();
    changed.wait(lock, [&] { return done; });
    if (stall) stall->record(std::chrono::steady_clock::now() - start);
    return status;
  }
};

Pending::Pending(Status status) : status_(std::move(status)) {}
Pending::Pending(std::shared_ptr<internal::ReadState> state) : state_(std::move(state)) {}
Pending::Pending(Pending&&) noexcept = default;

Pending& Pending::operator=(Pending&& other) noexcept {
  if (this == &other) return *this;
  if (state_) (void)state_->wait();
  status_ = std::move(other.status_);
  state_ = std::move(other.state_);
  return *this;
}

Pending::~Pending() {
  if (state_) (void)state_->wait();
}

bool Pending::done() const {
  if (!state_) return true;
  std::lock_guard lock(state_->mutex);
  return state_->done;
}

Status Pending::wait() {
  if (!state_) return std::move(status_);
  Status status = state_->wait();
  state_.reset();
  return status;
}

void Pending::on_done(std::function<void(const Status&)> fn) && {
  const auto state = std::move(state_);
  if (!state) return fn(status_);
  {
    std::lock_guard lock(state->mutex);
    if (!state->done) {
      state->on_done = std::move(fn);
      return;
    }
  }
  fn(state->status);
}

Completion::Completion(std::shared_ptr<LatencyHistogram> stall) : state_(std::make_shared<internal::ReadState>()) {
  state_->stall = std::move(stall);
}

Pending Completion::pending() const { return Pending(state_); }

void Completion::finish(Status status) const {
  std::function<void(const Status&)> fn;
  {
    std::lock_guard lock(state_->mutex);
    ENGRAM_CHECK(!state_->done, "a read ended twice: {}", status.to_string());
    state_->done = true;
    state_->status = std::move(status);
    fn = std::move(state_->on_done);
    state_->changed.notify_all();
  }
  if (fn) fn(state_->status);
}

}  // namespace engram
