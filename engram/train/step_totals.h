// StepTotals: the small numbers of a step that all ranks must have alike before anybody updates a weight.
//
// Every number is a sum whose order cannot matter: doubles that one rank fills and the others leave 0, and integers.
#pragma once
#include <cstdint>
#include <vector>

#include "engram/dist/communicator.h"
#include "engram/dist/exact_sum.h"

namespace engram {

inline constexpr int kGateBins = 32;  // of histograms of gates

struct StepTotals {
  std::vector<double> losses;         // [micro-batches of the step], filled by who made them
  std::vector<double> gate_means;     // [Engram layers], of the last micro-batch
  ExactSum squares;                   // of the gradients that are summed here
  std::vector<int64_t> touched_rows;  // [ranks] distinct rows of the step that each keeps, filled by itself
  int64_t asked_rows = 0;             // distinct rows that this rank asked for
  int64_t targets = 0;                // tokens to learn
  std::vector<int64_t> expert_loads;  // [MoE blocks x experts]
  std::vector<int64_t> gate_counts;   // [Engram layers x bins], of the last micro-batch; or empty
  bool stop = false;                  // somebody was asked to stop

  // 2-norm of all gradients.
  double gradient_norm() const;
  double loss() const;
};

// Sums over all ranks. Vectors have one length everywhere. Throws ExchangeFailed.
void add_over_ranks(Communicator& ranks, StepTotals& totals);

}  // namespace engram
