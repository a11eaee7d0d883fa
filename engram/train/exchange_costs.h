// ExchangeCosts: what the other ranks cost this one, for metrics.jsonl and for the end of a run.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engram/dist/communicator.h"
#include "engram/train/learner.h"

namespace engram {

class ExchangeCosts {
 public:
  // The field `exchange` of a step that took `seconds`: what was exchanged since the call before.
  nlohmann::ordered_json add(const Communicator& ranks, const StepResult& result, double seconds);
  // Means over all steps so far, by the names of that field; empty before the first one.
  std::map<std::string, double> means() const;
  // The same for people, one or two lines.
  std::vector<std::string> lines() const;

 private:
  std::array<ChannelStats, kChannels> counted_;  // up to the last call
  std::map<std::string, double> sums_;
  double seconds_ = 0;
  int64_t steps_ = 0;
};

}  // namespace engram
