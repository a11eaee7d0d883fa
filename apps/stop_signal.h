// Ctrl-C of long work that leaves something to continue from.
#pragma once
#include <atomic>

namespace engram::apps {

// From now on the first SIGINT or SIGTERM sets the flag; the second ends the process at once. The flag lives as long as
// the program.
std::atomic<bool>& stop_on_signals();

}  // namespace engram::apps
