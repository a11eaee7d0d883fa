// larger_worlds: what a training step would cost with more ranks, on paper.
//
//   T(N) = compute + messages(N) * latency + bytes(N) / bandwidth
//
// Each rank keeps its micro-batches, so a step of N ranks has N times one rank's tokens. Nothing overlaps and every
// message waits for the one before: an upper bound. What a step exchanges is counted in a real run:
//   - every exchange is an all-to-all of N - 1 messages; totals go to everybody
//   - rows: of the rows that a rank asks for, (N - 1) / N lie elsewhere
//   - tokens of experts that lie with several ranks: likewise
//   - dense weights have owners, and large ones several (dist/partition.h): the busiest rank gets N - 1 gradients of
//   its
//     share and sends it N - 1 times
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "engram/dist/partition.h"

namespace engram::bench {

// Of one kind of exchange, in a step of one rank.
struct ExchangeCount {
  double calls = 0, bytes_sent = 0;
};

struct StepCosts {
  int ranks = 2;  // of the run in which this was counted
  double compute_seconds = 0;
  ExchangeCount control, dense, table, expert;
  std::vector<Weight> weights;  // that every rank has
};

struct Link {
  std::string name;
  double latency_seconds, bytes_per_second;
};

// {"ranks", "link", "seconds", "efficiency" (compute's share), "messages", "bytes", "parts": {name: seconds},
// "largest_part", "sum_buffer_bytes" (gradients of the other ranks at the busiest owner)}. REQUIRES: ranks >= 2.
nlohmann::ordered_json larger_world(const StepCosts& costs, int ranks, const Link& link);

}  // namespace engram::bench
