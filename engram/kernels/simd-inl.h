// What the vector kernels share: the tag, loads and stores of partial vectors, sums, exp and sigmoid.
//
// Included once per Highway target inside a file that uses foreach_target.h, never elsewhere.
// Pointers need no alignment; n is the number of valid lanes and nothing beyond it is touched.
#if defined(ENGRAM_KERNELS_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ENGRAM_KERNELS_SIMD_INL_H_
#undef ENGRAM_KERNELS_SIMD_INL_H_
#else
#define ENGRAM_KERNELS_SIMD_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>
#include <cstring>

HWY_BEFORE_NAMESPACE();
namespace engram {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using FloatTag = hn::ScalableTag<float>;
using Floats = hn::Vec<FloatTag>;
using WordTag = hn::RebindToUnsigned<FloatTag>;
using Words = hn::Vec<WordTag>;

HWY_INLINE int64_t lanes() { return static_cast<int64_t>(hn::Lanes(FloatTag())); }

HWY_INLINE int64_t valid_lanes(int64_t at, int64_t size) { return size - at < lanes() ? size - at : lanes(); }

HWY_INLINE Floats splat(float value) { return hn::Set(FloatTag(), value); }

// The first n lanes of a vector; those past n are zero. SSE4 and NEON read whole vectors, masked or not
// (HWY_MEM_OPS_MIGHT_FAULT), so there a part goes through a copy.
template <class D>
HWY_INLINE hn::Vec<D> load_part(D d, const float* from, int64_t n) {
  if (HWY_LIKELY(n == static_cast<int64_t>(hn::Lanes(d)))) return hn::LoadU(d, from);
#if HWY_MEM_OPS_MIGHT_FAULT
  HWY_ALIGN float part[hn::MaxLanes(D())] = {};
  std::memcpy(part, from, static_cast<size_t>(n) * sizeof(float));
  return hn::Load(d, part);
#else
  return hn::MaskedLoad(hn::FirstN(d, static_cast<size_t>(n)), d, from);
#endif
}

HWY_INLINE Floats load(const float* from, int64_t n) { return load_part(FloatTag(), from, n); }

HWY_INLINE void store(Floats value, float* to, int64_t n) {
  const FloatTag d;
  if (HWY_LIKELY(n == lanes())) return hn::StoreU(value, d, to);
#if HWY_MEM_OPS_MIGHT_FAULT  // they also write back what they read behind the part, perhaps another thread's
  HWY_ALIGN float part[hn::MaxLanes(FloatTag())];
  hn::Store(value, d, part);
  std::memcpy(to, part, static_cast<size_t>(n) * sizeof(float));
#else
  hn::BlendedStore(value, hn::FirstN(d, static_cast<size_t>(n)), d, to);
#endif
}

HWY_INLINE float sum(Floats v) { return hn::GetLane(hn::SumOfLanes(FloatTag(), v)); }

// exp(x) for x <= 88, within 2 ulp (Cephes' polynomial); below -87 the result is exp(-87), about 1.6e-38.
HWY_INLINE Floats fast_exp(Floats x) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  x = hn::Max(splat(-87.0f), hn::Min(splat(88.0f), x));  // in this order x86 keeps a NaN
  const Floats n = hn::Round(hn::Mul(x, splat(1.44269504088896341f)));
  Floats r = hn::NegMulAdd(n, splat(0.693359375f), x);
  r = hn::NegMulAdd(n, splat(-2.12194440e-4f), r);
  Floats p = hn::MulAdd(splat(1.9875691500e-4f), r, splat(1.3981999507e-3f));
  p = hn::MulAdd(p, r, splat(8.3334519073e-3f));
  p = hn::MulAdd(p, r, splat(4.1665795894e-2f));
  p = hn::MulAdd(p, r, splat(1.6666665459e-1f));
  p = hn::MulAdd(p, r, splat(5.0000001201e-1f));
  p = hn::MulAdd(p, hn::Mul(r, r), hn::Add(r, splat(1.0f)));
  const auto exponent = hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(di, n), hn::Set(di, 127)));
  return hn::Mul(p, hn::BitCast(d, exponent));
}

// 2^t for t <= 127, within 4e-7; below -126 the result is 2^-126. Half the instructions of fast_exp.
HWY_INLINE Floats fast_exp2(Floats t) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  t = hn::Max(splat(-126.0f), t);
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low mantissa bits.
  const Floats rounder = splat(12582912.0f), shifted = hn::Add(t, rounder);
  const Floats f = hn::Sub(t, hn::Sub(shifted, rounder));
  Floats p = hn::MulAdd(splat(1.327647129e-3f), f, splat(9.675540961e-3f));
  p = hn::MulAdd(p, f, splat(5.550713092e-2f));
  p = hn::MulAdd(p, f, splat(0.2402212024f));
  p = hn::MulAdd(p, f, splat(0.6931469440f));
  p = hn::MulAdd(p, f, splat(1.0f));
  return hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::BitCast(di, shifted))));
}

// bf16.h's round_to_bf16 of each lane, in the low half of its word.
HWY_INLINE Words bf16_words(Floats v) {
  const WordTag d;
  const Words bits = hn::BitCast(d, v);
  const Words odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d, 1u));
  const Words rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(d, 0x7FFFu))));
  return hn::IfThenElse(hn::RebindMask(d, hn::IsNaN(v)), hn::Set(d, 0x7FC0u), rounded);
}

HWY_INLINE Floats sigmoid(Floats x) { return hn::Div(splat(1.0f), hn::Add(splat(1.0f), fast_exp(hn::Neg(x)))); }

}  // namespace HWY_NAMESPACE
}  // namespace engram
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
