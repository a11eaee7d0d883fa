#include "engram/dist/exact_sum.h"

#include <bit>
#include <cmath>

#include "engram/port/instructions.h"

namespace engram {
namespace {

// Adding 1.5 * 2^52 * 2^-bits to a double that is small enough leaves its nearest multiple of 2^-bits as an integer in
// the low bits: a conversion to integers that every instruction set has for several numbers at once.
constexpr double magic(int bits) { return std::bit_cast<double>((uint64_t{1023} + 52 - bits) << 52) * 1.5; }
constexpr double kHigh = magic(4), kMiddle = magic(42), kLow = magic(80);

struct Parts {
  uint64_t high = 0, middle = 0, low = 0;
  bool in_range = true;
};

// Each square below 2^46 in three parts: multiples of 2^-4, of 2^-42 and of 2^-80. Sums wrap around and come back when
// the constants are taken off: a part is below 2^50, and there are at most 2^11 of each. Every step is exact, so an
// instruction that multiplies and adds at once changes nothing.
[[gnu::always_inline]] inline Parts parts_of(const float* values, int count) {
  int out_of_range = 0;
  for (int i = 0; i < count; ++i) out_of_range |= !(std::fabs(values[i]) < 8388608.0f);  // true for NaN too
  Parts parts;
  for (int i = 0; i < count; ++i) {
    const double square = static_cast<double>(values[i]) * values[i];
    const double a = square + kHigh, rest = square - (a - kHigh);
    const double b = rest + kMiddle, last = rest - (b - kMiddle);
    const double c = last + kLow;
    parts.high += std::bit_cast<uint64_t>(a);
    parts.middle += std::bit_cast<uint64_t>(b);
    parts.low += std::bit_cast<uint64_t>(c);
  }
  parts.in_range = out_of_range == 0;
  return parts;
}

}  // namespace

void ExactSum::add_block(const float* values, int count) {
  const auto add = [&]() __attribute__((always_inline)) { return parts_of(values, count); };
  const Parts parts = port::with_widest_vectors(add);
  const auto integer = [count](uint64_t sum, double constant) {
    return Integer{static_cast<int64_t>(sum - static_cast<uint64_t>(count) * std::bit_cast<uint64_t>(constant))};
  };
  const Integer high = integer(parts.high, kHigh);
  infinite_ |= !parts.in_range || high >= kLimit >> 75;  // far above the limit: it would not fit into total_
  if (!infinite_)
    total_ += (high << 76) + integer(parts.middle, kMiddle) * (Integer{1} << 38) + integer(parts.low, kLow);
  settle();
}

}  // namespace engram
