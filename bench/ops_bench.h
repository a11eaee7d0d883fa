// ops_bench: each fused operator beside its plain form, forward and backward, at the demo's shapes.
//
// The two sides alternate in one run and the best round of each counts, so that a busy machine disturbs both alike.
// The plain side is what libtorch's own operators do in eager mode, called from C++ (no Python in its time).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace engram::bench {

struct OpsBenchOptions {
  int64_t batch = 8;
  int64_t length = 256;
  int64_t hidden_size = 64;
  int64_t streams = 1;
  int64_t vocabulary = 8192;
  int threads = 0;       // 0: libtorch's default
  double seconds = 1.0;  // for each operator, both sides
};

struct OpsBenchRow {
  std::string name;
  double fused_us = 0;  // forward and backward, best round
  double plain_us = 0;
  double ratio() const { return plain_us / fused_us; }
};

// Restores the number of threads. Throws c10::Error on impossible shapes.
std::vector<OpsBenchRow> run_ops_bench(const OpsBenchOptions& options);

}  // namespace engram::bench
