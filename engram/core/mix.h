// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection in which every input bit reaches every output bit.
#pragma once
#include <cstdint>

namespace engram {

inline uint64_t mix_bits(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// One step of SplitMix64 from state x: as mix_bits, but 0 does not stay 0.
inline uint64_t splitmix64(uint64_t x) { return mix_bits(x + 0x9E3779B97F4A7C15u); }

}  // namespace engram
