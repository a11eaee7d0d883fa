#include "engram/train/exchange_costs.h"

#include "engram/core/progress.h"

namespace engram {

nlohmann::ordered_json ExchangeCosts::add(const Communicator& ranks, const StepResult& result, double seconds) {
  nlohmann::ordered_json costs;
  int64_t sent = 0;
  for (int i = 0; i < kChannels; ++i) {
    const ChannelStats& stats = ranks.stats(static_cast<Channel>(i));
    ChannelStats& before = counted_[static_cast<size_t>(i)];
    if (stats.calls == 0 && static_cast<Channel>(i) == Channel::kExpert) continue;
    costs[fmt::format("{}_seconds", kChannelNames[i])] = stats.seconds_waited - before.seconds_waited;
    costs[fmt::format("{}_exchanges", kChannelNames[i])] = stats.calls - before.calls;
    costs[fmt::format("{}_bytes", kChannelNames[i])] = stats.bytes_sent - before.bytes_sent;
    sent += stats.bytes_sent - before.bytes_sent;
    before = stats;
  }
  costs["bytes_sent"] = sent;
  if (result.looked_up_rows > 0) {
    costs["looked_up_rows"] = result.looked_up_rows;
    costs["asked_rows"] = result.asked_rows;
    costs["busiest_owner"] = result.busiest_owner;
  }
  for (const auto& [name, value] : costs.items()) sums_[name] += value.get<double>();
  sums_["touched_rows"] += static_cast<double>(result.touched_rows);
  seconds_ += seconds;
  ++steps_;
  return costs;
}

std::map<std::string, double> ExchangeCosts::means() const {
  std::map<std::string, double> means = sums_;
  for (auto& [name, value] : means) value /= static_cast<double>(steps_);
  return means;
}

std::vector<std::string> ExchangeCosts::lines() const {
  if (steps_ == 0) return {};
  const std::map<std::string, double> mean = means();
  const double step = seconds_ / static_cast<double>(steps_);
  double waited = 0;
  std::vector<std::string> shares;
  for (const char* channel : kChannelNames) {
    const auto found = mean.find(fmt::format("{}_seconds", channel));
    if (found == mean.end()) continue;
    waited += found->second;
    shares.push_back(fmt::format("{} {:.1f} %", channel, 100 * found->second / step));
  }
  std::vector<std::string> lines = {fmt::format("exchange: {:.1f} % of the time waited ({}), {} bytes sent a step",
                                                100 * waited / step, fmt::join(shares, ", "),
                                                format_count(mean.at("bytes_sent")))};
  if (mean.contains("asked_rows"))
    lines.push_back(
        fmt::format("rows of a step: {} looked up, {} asked for, {} distinct; busiest owner {:.3f} of the mean",
                    format_count(mean.at("looked_up_rows")), format_count(mean.at("asked_rows")),
                    format_count(mean.at("touched_rows")), mean.at("busiest_owner")));
  return lines;
}

}  // namespace engram
