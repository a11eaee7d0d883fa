// Mixture: which source each window of a run comes from, in an order that keeps every prefix near the shares.
//
// Shares count in millionths. The order has a period of at most a million windows, which is computed once: of the
// sources that are behind their share, the next window is from the one that must soonest not be (earliest deadline
// first). So after any number of windows each source has had its share of them, except for less than one window.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

#include "engram/core/status.h"

namespace engram {

// Within a millionth, and what rounding adds to it.
inline bool is_sum_of_shares(double sum) { return std::abs(sum - 1) < 1.001e-6; }

class Mixture {
 public:
  // kInvalidArgument: no share or more than 64, one that is below a millionth, a sum that is not 1 within 1e-6.
  static Result<Mixture> create(const std::vector<double>& shares);

  struct Place {
    int source = 0;
    unsigned __int128 index = 0;  // among the windows of its source
  };
  Place operator()(unsigned __int128 window) const;

 private:
  struct Slot {
    int32_t source, index;
  };
  std::vector<int64_t> counts_;  // [sources] windows of a period
  std::vector<Slot> period_;     // index: among the period's windows of the same source
};

}  // namespace engram
