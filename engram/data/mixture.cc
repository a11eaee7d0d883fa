#include "engram/data/mixture.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace engram {

Result<Mixture> Mixture::create(const std::vector<double>& shares) {
  constexpr int64_t kParts = 1'000'000;
  constexpr size_t kMostSources = 64;
  if (shares.empty() || shares.size() > kMostSources)
    return invalid_argument("shares: got {} sources, wanted 1 to {}", shares.size(), kMostSources);
  for (const double share : shares)
    if (!(share >= 1e-6 && share <= 1))
      return invalid_argument("shares: got {}, wanted at least a millionth and at most 1", share);
  if (const double sum = std::accumulate(shares.begin(), shares.end(), 0.0); !is_sum_of_shares(sum))
    return invalid_argument("shares: got a sum of {}, wanted 1", sum);
  Mixture mixture;
  for (const double share : shares) mixture.counts_.push_back(std::llround(share * kParts));
  // What rounding leaves over is nothing to the largest.
  *std::ranges::max_element(mixture.counts_) +=
      kParts - std::accumulate(mixture.counts_.begin(), mixture.counts_.end(), int64_t{0});
  int64_t divisor = kParts;
  for (const int64_t count : mixture.counts_) divisor = std::gcd(divisor, count);
  for (int64_t& count : mixture.counts_) count /= divisor;

  // The j-th window of a source that has `count` of each `period` belongs between floor(j * period / count) and
  // ceil((j + 1) * period / count). There is an order that keeps all of these, so this one does.
  const int64_t period = kParts / divisor;
  std::vector<int64_t> done(shares.size()), deadlines;
  for (const int64_t count : mixture.counts_) deadlines.push_back((period + count - 1) / count);
  for (int64_t k = 0; k < period; ++k) {
    size_t next = shares.size();
    for (size_t s = 0; s < shares.size(); ++s) {
      const bool released = done[s] * period < mixture.counts_[s] * (k + 1);
      if (released && (next == shares.size() || deadlines[s] < deadlines[next])) next = s;
    }
    ENGRAM_CHECK(next < shares.size(), "window {} of {}", k, period);
    mixture.period_.push_back({static_cast<int32_t>(next), static_cast<int32_t>(done[next]++)});
    deadlines[next] = ((done[next] + 1) * period + mixture.counts_[next] - 1) / mixture.counts_[next];
  }
  return mixture;
}

Mixture::Place Mixture::operator()(unsigned __int128 window) const {
  const auto [source, index] = period_[static_cast<size_t>(window % period_.size())];
  const auto count = static_cast<unsigned __int128>(counts_[static_cast<size_t>(source)]);
  return {source, window / period_.size() * count + static_cast<unsigned __int128>(index)};
}

}  // namespace engram
