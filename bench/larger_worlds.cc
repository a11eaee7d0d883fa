#include "bench/larger_worlds.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace engram::bench {
namespace {

using Json = nlohmann::ordered_json;

// Floats of the rank that owns most.
double largest_share(const std::vector<Weight>& weights, int ranks) {
  const std::vector<int> owners = weight_owners(weights, ranks);
  std::vector<double> shares(static_cast<size_t>(ranks));
  double divided = 0;
  for (size_t i = 0; i < weights.size(); ++i)
    (owners[i] == kDivided ? divided : shares[static_cast<size_t>(owners[i])]) += static_cast<double>(weights[i].size);
  return *std::ranges::max_element(shares) + divided / ranks;
}

}  // namespace

Json larger_world(const StepCosts& costs, int ranks, const Link& link) {
  const double n = ranks, others = n - 1, counted = costs.ranks;
  const double share = largest_share(costs.weights, ranks);
  const double row_growth = (others / n) / ((counted - 1) / counted);
  const double dense_growth = others * share / ((counted - 1) * largest_share(costs.weights, costs.ranks));
  const std::vector<std::pair<const char*, double>> messages = {
      {"messages of rows", costs.table.calls * others},
      {"messages of tokens", costs.expert.calls * others},
      {"messages of dense weights", costs.dense.calls * others},
      {"messages of totals", costs.control.calls * others}};
  const std::vector<std::pair<const char*, double>> bytes = {
      {"bytes of rows", costs.table.bytes_sent * row_growth},
      {"bytes of tokens", costs.expert.bytes_sent * row_growth},
      {"bytes of dense weights", costs.dense.bytes_sent * dense_growth},
      {"bytes of totals", costs.control.bytes_sent * others / (counted - 1)}};
  Json parts;
  double message_count = 0, byte_count = 0, seconds = costs.compute_seconds;
  const auto add = [&](const char* name, double part_seconds) {
    parts[name] = part_seconds;
    seconds += part_seconds;
  };
  for (const auto& [name, count] : messages) {
    message_count += count;
    add(name, count * link.latency_seconds);
  }
  for (const auto& [name, count] : bytes) {
    byte_count += count;
    add(name, count / link.bytes_per_second);
  }
  std::string largest;
  for (const auto& [name, part] : parts.items())
    if (largest.empty() || part > parts[largest]) largest = name;
  return {{"ranks", ranks},
          {"link", link.name},
          {"seconds", seconds},
          {"efficiency", costs.compute_seconds / seconds},
          {"messages", message_count},
          {"bytes", byte_count},
          {"parts", parts},
          {"largest_part", largest},
          {"sum_buffer_bytes", others * share * double{sizeof(float)}}};
}

}  // namespace engram::bench
