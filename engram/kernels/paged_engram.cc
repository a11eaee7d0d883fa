#include "engram/kernels/paged_engram.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engram/kernels/paged_engram.cc"
#include <hwy/foreach_target.h>

#include "engram/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace engram {
namespace HWY_NAMESPACE {

void PagedEngramMix(const PagedEngramShape& shape, const float* taps, const float* pages, const int64_t* slots,
                    const int64_t* tap_slots, int64_t begin, int64_t end, float* y) {
  const int64_t dim = shape.dim, streams = shape.streams;
  for (int64_t token = begin; token < end; ++token) {
    const float* own = pages + slots[token] * shape.row_width();
    for (int64_t m = 0; m < streams; ++m) {
      const Floats gate = splat(own[dim + m]);
      for (int64_t c = 0; c < dim; c += lanes()) {
        const int64_t n = valid_lanes(c, dim);
        Floats z = splat(0);
        for (int64_t age = 0; age < shape.taps; ++age) {
          const int64_t slot = tap_slots[token * shape.taps + age];
          if (slot < 0) break;
          const float* row = pages + slot * shape.row_width();
          const Floats tap = load(taps + (age * streams + m) * dim + c, n);
          z = hn::MulAdd(hn::Mul(tap, splat(row[dim + streams + m])), load(row + c, n), z);
        }
        const Floats out = hn::MulAdd(gate, load(own + c, n), hn::Mul(z, sigmoid(z)));
        store(out, y + (token * streams + m) * dim + c, n);
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace engram
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram {

HWY_EXPORT(PagedEngramMix);

void paged_engram_mix(const PagedEngramShape& shape, const float* taps, const float* pages, const int64_t* slots,
                      const int64_t* tap_slots, int64_t begin, int64_t end, float* y) {
  HWY_DYNAMIC_DISPATCH(PagedEngramMix)(shape, taps, pages, slots, tap_slots, begin, end, y);
}

}  // namespace engram
#endif  // HWY_ONCE
