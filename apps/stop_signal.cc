#include "apps/stop_signal.h"

#include <algorithm>
#include <csignal>

namespace engram::apps {
namespace {

constexpr int kMostStages = 2;
std::atomic<bool> flags[kMostStages];
std::atomic<int> signals = 0, last_stage = 1;
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free,
              "a signal handler may write them");

void on_signal(int signal) {
  const int stage = ++signals;
  if (stage <= kMostStages) flags[stage - 1] = true;
  // Not the other signal too: Ctrl-C reaches a child directly (SIGINT) and again through its parent (SIGTERM).
  if (stage >= last_stage) std::signal(signal, SIG_DFL);
}

}  // namespace

std::span<const std::atomic<bool>> stop_on_signals(int stages) {
  last_stage = std::clamp(stages, 1, kMostStages);
  std::signal(SIGINT, on_signal);
  std::signal(SIGTERM, on_signal);
  return flags;
}

}  // namespace engram::apps
