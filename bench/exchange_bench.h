// exchange_bench: what the ranks of a world pay for their exchanges. Every rank runs it; the numbers are rank 0's.
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>

#include "engram/dist/communicator.h"

namespace engram::bench {

struct ExchangeBenchOptions {
  int rounds = 5;        // of which the median counts
  int64_t rows = 50000;  // distinct rows of a training step, all memory layers together, on each rank
};

// {"ranks", "rounds", "messages": [{"floats", "seconds", "bytes_per_second"}], "steps": [{"rows", "row_bytes",
// "counts_seconds", "ids_seconds", "rows_seconds", "gradients_seconds", "seconds", "bytes_sent"}]}. A message is an
// all-to-all of so many floats on each rank; bytes per second count what a rank sends to others. A step asks the owners
// for its rows (how many, which), gets them, and sends as many gradients. Throws ExchangeFailed.
nlohmann::ordered_json run_exchange_bench(Communicator& world, const ExchangeBenchOptions& options);

}  // namespace engram::bench
