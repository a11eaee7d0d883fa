// Pending: a read that has been started. Completion: the end of it that the tier holds.
#pragma once
#include <functional>
#include <memory>
#include <utility>

#include "engram/core/status.h"
#include "engram/store/stats.h"

namespace engram {

namespace internal {
struct ReadState;
}

// Move-only; used by one thread at a time. The store may be destroyed before it: the read is over then.
class [[nodiscard]] Pending {
 public:
  Pending(Status status);  // NOLINT: a read that is over already, implicit on purpose
  Pending(Pending&&) noexcept;
  Pending& operator=(Pending&& other) noexcept;  // waits for the read it had
  ~Pending();                                    // waits

  bool done() const;
  // Waits and gives the Status. REQUIRES: neither wait() nor on_done() was called before.
  Status wait();
  // Gives the read up: nothing waits for it any more, and `fn` is called once with its Status, by the thread that ends
  // the read (at once where it is over). `fn` runs on a tier's own thread: it must be short and may not wait.
  void on_done(std::function<void(const Status&)> fn) &&;

 private:
  friend class Completion;
  explicit Pending(std::shared_ptr<internal::ReadState> state);
  Status status_;                               // when there is no state
  std::shared_ptr<internal::ReadState> state_;  // null: over or given up
};

// Copyable handle; the last copy may not go before finish(). Any thread.
class Completion {
 public:
  // stall: where the time that callers spend in wait() is recorded; may be null.
  explicit Completion(std::shared_ptr<LatencyHistogram> stall = nullptr);
  Pending pending() const;           // REQUIRES: called once
  void finish(Status status) const;  // REQUIRES: called once; runs on_done()'s function

 private:
  std::shared_ptr<internal::ReadState> state_;
};

}  // namespace engram
