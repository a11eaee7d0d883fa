// PhaseProfiler: where the time of a training step goes, by phase, forward and backward together.
//
// A phase is a scope in the code, RECORD_USER_SCOPE("phase:attention"), which costs almost nothing while no profiler
// runs. Backward passes need no marks: a node of the autograd graph belongs to the phase that was running when it was
// made. A phase inside another counts for itself only. For CPU: on a GPU the times are those of launching.
#pragma once
#include <map>
#include <string>

namespace engram {

// One at a time per process; start() and stop() from the thread that trains.
class PhaseProfiler {
 public:
  ~PhaseProfiler();
  void start();
  void stop();
  // Seconds by phase name, summed over everything between start() and stop(); "other" is the rest of that time.
  std::map<std::string, double> seconds() const;

 private:
  bool running_ = false;
};

}  // namespace engram
