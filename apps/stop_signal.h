// Stop by signal: the one place where a command hears SIGINT and SIGTERM. Libraries take the flags.
#pragma once
#include <atomic>
#include <span>

namespace engram::apps {

// From now on each SIGINT or SIGTERM sets the next of `stages` flags (1 or 2); once all are set, the same signal again
// ends the process at once. The flags live as long as the program.
std::span<const std::atomic<bool>> stop_on_signals(int stages);
inline const std::atomic<bool>& stop_on_signals() { return stop_on_signals(1)[0]; }

}  // namespace engram::apps
