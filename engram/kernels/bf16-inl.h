// Vectors of bf16 in memory, beside simd-inl.h: included once per Highway target, never elsewhere.
#if defined(ENGRAM_KERNELS_BF16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ENGRAM_KERNELS_BF16_INL_H_
#undef ENGRAM_KERNELS_BF16_INL_H_
#else
#define ENGRAM_KERNELS_BF16_INL_H_
#endif

#include <cstring>

#include "engram/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace engram {
namespace HWY_NAMESPACE {

// n numbers of 16 bits, each in the low half of its word; lanes past n are zero. `from` needs no alignment at all.
HWY_INLINE Words load_halves(const void* from, int64_t n) {
  const WordTag d;
  const hn::Rebind<uint16_t, WordTag> halves;
  uint16_t padded[HWY_MAX_BYTES / 4] = {};
  if (HWY_LIKELY(n == lanes())) {
    std::memcpy(padded, from, static_cast<size_t>(lanes()) * 2);  // a plain load: the size is a constant
  } else {
    std::memcpy(padded, from, static_cast<size_t>(n) * 2);
  }
  return hn::PromoteTo(d, hn::LoadU(halves, padded));
}

// The low halves of n words. Nothing past them is touched: a masked store of 16-bit lanes would do so with AVX2.
HWY_INLINE void store_halves(Words words, uint16_t* to, int64_t n) {
  const hn::RebindToSigned<FloatTag> di;
  const hn::Rebind<uint16_t, FloatTag> dh;
  const auto halves = hn::DemoteTo(dh, hn::BitCast(di, words));
  if (HWY_LIKELY(n == lanes())) {
    hn::StoreU(halves, dh, to);
  } else {
    uint16_t padded[HWY_MAX_BYTES / 4];
    hn::StoreU(halves, dh, padded);
    std::memcpy(to, padded, static_cast<size_t>(n) * 2);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace engram
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
