// Collisions: which n-grams share rows, and does sharing hurt?
//
// Training text gives every n-gram a count and every row its traffic. An n-gram's dilution is log2(traffic of its row /
// its own count), averaged over heads and layers: 0 where it has its rows to itself, 1 more for every doubling of what
// others write there. A hash decides which n-grams share, so among n-grams of equal counts the dilution is as
// good as random, and its slope on held-out loss is what sharing costs. Positions are compared within bins of equal
// counts of all orders; the interval is a bootstrap over windows. N-grams that training never saw have no own count:
// they take no part.
#pragma once
#include <cstdint>
#include <vector>

#include "engram/lab/pages/statistics.h"
#include "engram/lab/probes/probe.h"

namespace engram {

// Bins of a count: 0, 1, ..., 32, then eight to an octave.
int64_t count_bin(int64_t count);

// Ordinary least squares of y on the columns of x [n][k] within bins: every column and y have their bin's mean taken
// off. `cluster` [n] groups rows that are drawn together. Returns the slopes and their 95 % intervals.
struct Slopes {
  std::vector<double> values;
  std::vector<Interval> intervals;
  std::vector<double> variation;  // standard deviation of each column within bins: 0 says nothing can be learned
};
Slopes slopes_within_bins(const std::vector<std::vector<double>>& x, const std::vector<double>& y,
                          const std::vector<int64_t>& bins, const std::vector<int64_t>& cluster, int64_t seed);

Result<ProbeResult> probe_collisions(const ProbeContext& context);

}  // namespace engram
