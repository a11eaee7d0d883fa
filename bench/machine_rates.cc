#include "bench/machine_rates.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/machine_rates.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace engram::bench::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

double MultiplyAdds(int64_t rounds, float* sink) {
  constexpr int kChains = 10;  // enough for two units with a latency of four or five; fits sixteen registers
  using Tag = hn::ScalableTag<float>;
  const Tag d;
  const auto scale = hn::Set(d, 0.999f), add = hn::Set(d, 0.001f);
  hn::Vec<Tag> sums[kChains];
  for (int c = 0; c < kChains; ++c) sums[c] = hn::Set(d, static_cast<float>(c));
  for (int64_t i = 0; i < rounds; ++i) {
    for (int c = 0; c < kChains; ++c) sums[c] = hn::MulAdd(sums[c], scale, add);
  }
  for (int c = 1; c < kChains; ++c) sums[0] = hn::Add(sums[0], sums[c]);
  *sink = hn::GetLane(sums[0]);
  return 2.0 * kChains * static_cast<double>(hn::Lanes(d)) * static_cast<double>(rounds);
}

}  // namespace engram::bench::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram::bench {

HWY_EXPORT(MultiplyAdds);
double multiply_adds(int64_t rounds, float* sink) { return HWY_DYNAMIC_DISPATCH(MultiplyAdds)(rounds, sink); }

}  // namespace engram::bench
#endif  // HWY_ONCE
