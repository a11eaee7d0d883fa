// bf16, one value at a time; for vectors simd-inl.h has the same rounding.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

namespace engram {

// To nearest, ties to even; every NaN gives 0x7FC0.
inline uint16_t round_to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return std::isnan(value) ? 0x7FC0 : static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

// To one of the two neighbours, so that over uniformly random 16 bits the mean is the value. What bf16 can hold stays
// as it is; a NaN gives 0x7FC0.
inline uint16_t round_to_bf16(float value, uint16_t random) {
  return std::isnan(value) ? 0x7FC0 : static_cast<uint16_t>((std::bit_cast<uint32_t>(value) + random) >> 16);
}

inline float widen_bf16(uint16_t value) { return std::bit_cast<float>(uint32_t{value} << 16); }

}  // namespace engram
