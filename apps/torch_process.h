// What a command that computes with torch sets for its whole process, before the first thread starts.
#pragma once
#include <cstdint>

namespace engram::apps {

// Threads of the arithmetic (0: as many as torch chooses), and denormals flushed to zero: they are slow, and training,
// evaluation and serving must round alike.
void set_up_torch(int64_t threads = 0);

}  // namespace engram::apps
