// StepClock: where the time of a step goes, on the thread that trains. On a GPU these are the times of launching, and
// the last phase waits for the rest.
#pragma once
#include <chrono>
#include <utility>

#include "engram/dist/communicator.h"

namespace engram {

struct StepSeconds {
  double data = 0;        // waiting for batches
  double forward = 0;     // the rows of the memory included
  double backward = 0;    // gradients that leave meanwhile included
  double optimizers = 0;  // sums of gradients, clipping and updates
  double exchange = 0;    // of these phases: waiting for other ranks, which does not count there
};

class StepClock {
 public:
  explicit StepClock(const Communicator& ranks) : ranks_(ranks), last_(now()), last_waited_(waited()) {}
  // Everything since the call before was this phase.
  void lap(StepSeconds& seconds, double StepSeconds::*phase) {
    const double time = now(), all_waited = waited();
    const double waited_now = all_waited - std::exchange(last_waited_, all_waited);
    seconds.*phase += time - std::exchange(last_, time) - waited_now;
    seconds.exchange += waited_now;
  }

 private:
  static double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  double waited() const {
    double sum = 0;
    for (int i = 0; ranks_.size() > 1 && i < kChannels; ++i)
      sum += ranks_.stats(static_cast<Channel>(i)).seconds_waited;
    return sum;
  }

  const Communicator& ranks_;
  double last_, last_waited_;
};

}  // namespace engram
