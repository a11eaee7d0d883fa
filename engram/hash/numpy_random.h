// NumpyRandom: numpy.random.default_rng(seed), bit for bit.
//
// SeedSequence -> PCG64 (XSL-RR 128/64) -> Lemire's bounded rejection for 64-bit integers and 53-bit doubles, as
// numpy 1.17 and later draw them. Not thread-safe; copyable (the copy continues the same stream).
#pragma once
#include <cstdint>

namespace engram {

class NumpyRandom {
 public:
  explicit NumpyRandom(uint64_t seed);  // default_rng(seed), seed >= 0
  uint64_t next_uint64();
  // Half of a 64-bit draw, low half first; the other half waits for the next call.
  uint32_t next_uint32();
  // Generator.integers(low, high, dtype=int64): low <= x < high. REQUIRES: low < high.
  int64_t integers(int64_t low, int64_t high);
  // Generator.random(): [0, 1).
  double random();
  // Standard normal by Box-Muller from random(); not numpy's ziggurat.
  double normal();

 private:
  __extension__ unsigned __int128 state_ = 0, increment_ = 0;
  bool has_uint32_ = false;
  uint32_t uint32_ = 0;
};

}  // namespace engram
