#include "engram/data/permutation.h"

#include <bit>

#include "engram/core/mix.h"
#include "engram/core/status.h"

namespace engram {
Permutation::Permutation(uint64_t size, uint64_t seed, uint64_t epoch) : size_(size) {
  ENGRAM_CHECK(size > 0 && size <= uint64_t{1} << 62, "size={}", size);
  half_bits_ = size == 1 ? 1 : (std::bit_width(size - 1) + 1) / 2;
  constexpr uint64_t kGolden = 0x9E3779B97F4A7C15u;
  uint64_t state = mix_bits(mix_bits(seed + kGolden) ^ epoch);
  for (uint64_t& key : keys_) key = mix_bits(state += kGolden);
}

uint64_t Permutation::operator()(uint64_t index) const {
  ENGRAM_CHECK(index < size_, "index={} size={}", index, size_);
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  do {
    uint64_t left = index >> half_bits_, right = index & mask;
    for (uint64_t key : keys_) {
      const uint64_t next = left ^ (mix_bits(right + key) & mask);
      left = right;
      right = next;
    }
    index = (left << half_bits_) | right;
  } while (index >= size_);
  return index;
}

}  // namespace engram
