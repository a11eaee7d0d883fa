// The ranks of a world that is this machine alone: what torchrun does, without Python.
#pragma once
#include <atomic>
#include <span>
#include <string>
#include <vector>

#include "engram/core/status.h"

namespace engram {

// Starts `arguments` (the program's path and what follows) `ranks` times with RANK, WORLD_SIZE, LOCAL_RANK,
// LOCAL_WORLD_SIZE, MASTER_ADDR and a free MASTER_PORT set, and waits for all. Each rank has a session: a terminal's
// Ctrl-C reaches it through the caller alone. stop[0] sends each rank one SIGTERM; stop[1], where it exists, kills it.
//
// Rank 0 has this process's stdout and stderr. What the others print goes to stderr, line by line behind "[rank 1] ",
// and a signal that ends a rank is named there. The result is the exit code of the rank that failed first (128 + signal
// for a killed one), 0 when all succeed. After a failure the others have ten seconds to report it, are then asked to
// end, and are killed ten seconds later.
Result<int> run_local_ranks(int ranks, const std::vector<std::string>& arguments,
                            std::span<const std::atomic<bool>> stop);

}  // namespace engram
