// Permutation: a seeded shuffle of [0, size) that is computed, not stored.
//
// A Feistel network over the smallest even number of bits that holds `size`; values outside are walked through the
// network again until they fall inside (fewer than 4 walks on average). O(1) memory, so seeking to any place of any
// epoch costs nothing. Not for cryptography. Immutable; any thread.
#pragma once
#include <cstdint>

namespace engram {

class Permutation {
 public:
  // The same (size, seed, epoch) is the same permutation on every machine. REQUIRES: 0 < size <= 2^62.
  Permutation(uint64_t size, uint64_t seed, uint64_t epoch);
  // REQUIRES: index < size.
  uint64_t operator()(uint64_t index) const;

 private:
  static constexpr int kRounds = 6;
  uint64_t size_;
  int half_bits_;
  uint64_t keys_[kRounds];
};

}  // namespace engram
