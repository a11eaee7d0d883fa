#include "engram/hash/numpy_random.h"

#include <array>
#include <cmath>
#include <numbers>

#include "engram/core/status.h"

namespace engram {
namespace {

__extension__ using uint128 = unsigned __int128;

// numpy.random.SeedSequence(seed).generate_state(4, uint64), after numpy/random/bit_generator.pyx.
std::array<uint64_t, 4> seed_sequence(uint64_t seed) {
  constexpr int kPoolSize = 4, kShift = 16;
  uint32_t hash_constant = 0x43b0d7e5;
  auto hashmix = [&](uint32_t value) {
    value ^= hash_constant;
    hash_constant *= 0x931e8875;
    value *= hash_constant;
    return value ^ (value >> kShift);
  };
  std::array<uint32_t, kPoolSize> pool = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), 0, 0};
  for (uint32_t& word : pool) word = hashmix(word);
  for (int source = 0; source < kPoolSize; ++source) {
    for (int target = 0; target < kPoolSize; ++target) {
      if (source == target) continue;
      uint32_t mixed = 0xca01f9dd * pool[target] - 0x4973f715 * hashmix(pool[source]);
      pool[target] = mixed ^ (mixed >> kShift);
    }
  }

  std::array<uint64_t, 4> state = {};
  hash_constant = 0x8b51f9dd;
  for (int i = 0; i < 8; ++i) {
    uint32_t value = pool[i % kPoolSize] ^ hash_constant;
    hash_constant *= 0x58f38ded;
    value *= hash_constant;
    value ^= value >> kShift;
    state[i / 2] |= static_cast<uint64_t>(value) << (32 * (i % 2));
  }
  return state;
}

constexpr uint128 kMultiplier = (static_cast<uint128>(2549297995355413924ULL) << 64) + 4865540595714422341ULL;

}  // namespace

NumpyRandom::NumpyRandom(uint64_t seed) {
  std::array<uint64_t, 4> words = seed_sequence(seed);
  uint128 initial_state = (static_cast<uint128>(words[0]) << 64) | words[1];
  uint128 sequence = (static_cast<uint128>(words[2]) << 64) | words[3];
  increment_ = (sequence << 1) | 1;
  state_ = (increment_ + initial_state) * kMultiplier + increment_;
}

uint64_t NumpyRandom::next_uint64() {
  state_ = state_ * kMultiplier + increment_;
  uint64_t folded = static_cast<uint64_t>(state_ >> 64) ^ static_cast<uint64_t>(state_);
  int rotation = static_cast<int>(state_ >> 122);
  return (folded >> rotation) | (folded << ((64 - rotation) & 63));
}

uint32_t NumpyRandom::next_uint32() {
  if (has_uint32_) {
    has_uint32_ = false;
    return uint32_;
  }
  uint64_t both = next_uint64();
  has_uint32_ = true;
  uint32_ = static_cast<uint32_t>(both >> 32);
  return static_cast<uint32_t>(both);
}

int64_t NumpyRandom::integers(int64_t low, int64_t high) {
  ENGRAM_CHECK(low < high, "low={} high={}", low, high);
  const uint64_t start = static_cast<uint64_t>(low);
  const uint64_t range = static_cast<uint64_t>(high) - start - 1;  // inclusive
  if (range == 0) return low;
  if (range == UINT32_MAX) return static_cast<int64_t>(start + next_uint32());
  if (range < UINT32_MAX) {
    // Lemire's method: the high half of draw * width, redrawn while the low half falls in the biased part.
    const uint32_t width = static_cast<uint32_t>(range) + 1;
    const uint32_t threshold = (UINT32_MAX - static_cast<uint32_t>(range)) % width;
    uint64_t product;
    do {
      product = static_cast<uint64_t>(next_uint32()) * width;
    } while (static_cast<uint32_t>(product) < threshold);
    return static_cast<int64_t>(start + (product >> 32));
  }
  const uint64_t width = range + 1;
  const uint64_t threshold = (UINT64_MAX - range) % width;
  uint128 product;
  do {
    product = static_cast<uint128>(next_uint64()) * width;
  } while (static_cast<uint64_t>(product) < threshold);
  return static_cast<int64_t>(start + static_cast<uint64_t>(product >> 64));
}

double NumpyRandom::random() { return static_cast<double>(next_uint64() >> 11) * 0x1p-53; }

double NumpyRandom::normal() {
  double radius = std::sqrt(-2.0 * std::log(1.0 - random()));  // 1 - [0, 1) is never 0
  return radius * std::cos(2.0 * std::numbers::pi * random());
}

}  // namespace engram
