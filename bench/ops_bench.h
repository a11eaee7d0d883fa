// ops_bench: every kernel of engram/kernels beside the best call of libtorch for the same work, at three shapes.
//
// Ours, each rival and a copy of the same bytes take turns in one run, so that a busy machine disturbs all alike; the
// rival whose best time is least counts. One thread is timed by its CPU time, several by the wall. Nothing of Python is
// in a rival's time. The limit of a machine is the larger of two times: that of copying the bytes that the work has to
// read and write, and that of its arithmetic at the measured rate of multiply-adds.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "engram/core/status.h"

namespace engram::bench {

struct OpsBenchOptions {
  std::string only;      // a kernel; "": all
  std::string shape;     // "demo", "xs", "d512"; "": all
  int threads = 1;       // 0: libtorch's default
  double seconds = 0.5;  // for each case, all sides
  bool quick = false;    // the demo's shape, one round: a test that every case runs
};

struct OpsTime {
  double least_us = 0, median_us = 0;
};

struct OpsBenchRow {
  std::string kernel, work, shape;
  OpsTime ours;
  std::vector<std::pair<std::string, OpsTime>> rivals;  // the best first
  double limit_us = 0;
  double rate = 0;  // of ours, 1e9 bytes or operations a second
  bool arithmetic = false;
  double ratio() const { return rivals[0].second.least_us / ours.least_us; }
  double share_of_limit() const { return limit_us / ours.least_us; }
};

struct OpsBenchResult {
  int threads = 1;
  double copy_gb = 0;  // of 256 MiB, read and written, GB/s
  double fp32_gflops = 0, bf16_gflops = 0;
  std::vector<std::string> kernels;  // that have cases
  std::vector<OpsBenchRow> rows;
};

// Restores the number of threads. kInvalidArgument: an unknown kernel or shape. kInternal: a rival's result differs.
Result<OpsBenchResult> run_ops_bench(const OpsBenchOptions& options);

}  // namespace engram::bench
