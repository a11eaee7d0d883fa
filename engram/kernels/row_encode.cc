// encode_rows(): table rows as they are stored.
#include "engram/kernels/row_codec.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engram/kernels/row_encode.cc"
#include <hwy/foreach_target.h>

#include "engram/kernels/bf16-inl.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

HWY_BEFORE_NAMESPACE();
namespace engram {
namespace HWY_NAMESPACE {

using IntTag = hn::RebindToSigned<FloatTag>;
using Ints = hn::Vec<IntTag>;

// The low bytes of n words; nothing past them is touched.
HWY_INLINE void store_bytes(Words words, std::byte* to, int64_t n) {
  const hn::Rebind<uint8_t, WordTag> bytes;
  uint8_t padded[HWY_MAX_BYTES / 4];
  hn::StoreU(hn::TruncateTo(bytes, words), bytes, padded);
  std::memcpy(to, padded, static_cast<size_t>(n == lanes() ? lanes() : n));  // a plain store for whole vectors
}

// +infinity where any value is not a finite number: as integers, magnitudes have the order of the numbers.
HWY_INLINE float largest_magnitude(const float* values, int64_t count) {
  const IntTag d;
  Ints largest = hn::Zero(d);
  for (int64_t c = 0; c < count; c += lanes())
    largest = hn::Max(largest, hn::BitCast(d, hn::Abs(load(values + c, valid_lanes(c, count)))));
  const float out = std::bit_cast<float>(hn::GetLane(hn::MaxOfLanes(d, largest)));
  return std::isfinite(out) ? out : std::numeric_limits<float>::infinity();
}

// Finite numbers to e4m3 codes: nearest, ties to even; beyond 448 saturates. Below 2^-6 the step is 2^-9; above, the
// rounding carries into the exponent by itself.
HWY_INLINE Words e4m3_codes(Floats value) {
  const WordTag d;
  const Floats magnitude = hn::Min(hn::Abs(value), splat(448.0f));
  const Words bits = hn::BitCast(d, magnitude);
  const Words odd = hn::And(hn::ShiftRight<20>(bits), hn::Set(d, 1));
  const Words rounded = hn::ShiftRight<20>(hn::Add(hn::Add(bits, hn::Set(d, 0x7FFFFu)), odd));
  const Words normal = hn::Sub(rounded, hn::Set(d, 120u << 3));
  const Words small = hn::BitCast(d, hn::NearestInt(hn::Mul(magnitude, splat(0x1p9f))));
  const auto is_small = hn::RebindMask(d, hn::Lt(magnitude, splat(0x1p-6f)));
  const Words sign = hn::And(hn::ShiftRight<24>(hn::BitCast(d, value)), hn::Set(d, 0x80u));
  return hn::Or(hn::IfThenElse(is_small, small, normal), sign);
}

// Of values * lift / (scale * lift). For a power of two the quotient is exact; for a table scale it is rounded once.
HWY_INLINE void encode_block_e4m3(const float* values, int64_t count, float lifted_scale, float lift,
                                  std::byte* codes) {
  const Floats s = splat(lifted_scale), l = splat(lift);
  const Floats most = splat(0x1.Ep127f);  // times a power of two, an e4m3 code stays within fp32
  for (int64_t c = 0; c < count; c += lanes()) {
    const int64_t n = valid_lanes(c, count);
    const Floats value = hn::Max(hn::Neg(most), hn::Min(most, load(values + c, n)));
    store_bytes(e4m3_codes(hn::Div(hn::Mul(value, l), s)), codes + c, n);
  }
}

// Codes -limit .. limit, a byte each.
HWY_INLINE void encode_block(const float* values, int64_t count, float scale, int limit, std::byte* codes) {
  const IntTag d;
  const Floats s = splat(scale);
  for (int64_t c = 0; c < count; c += lanes()) {
    const int64_t n = valid_lanes(c, count);
    const Ints code = hn::NearestInt(hn::Div(load(values + c, n), s));
    const Ints kept = hn::Max(hn::Set(d, -limit), hn::Min(hn::Set(d, limit), code));
    store_bytes(hn::BitCast(WordTag(), kept), codes + c, n);
  }
}

HWY_INLINE void narrow_to_bf16(const float* values, int64_t count, std::byte* row) {
  for (int64_t c = 0; c < count; c += lanes()) {
    const int64_t n = valid_lanes(c, count);
    uint16_t halves[HWY_MAX_BYTES / 4];
    store_halves(bf16_words(load(values + c, n)), halves, n);
    std::memcpy(row + c * 2, halves, static_cast<size_t>(n) * 2);
  }
}

// Smallest e8m0 byte b with largest <= 448 * 2^(b - 127).
HWY_INLINE uint8_t smallest_e8m0(float largest) {
  if (largest == 0) return 127;
  int exponent;
  // largest = f * 2^exponent with f in [0.5, 1), and 448 = 0.875 * 2^9.
  const double f = std::frexp(static_cast<double>(largest), &exponent);
  return static_cast<uint8_t>(std::clamp(exponent - 9 + (f > 0.875 ? 1 : 0) + 127, 0, 254));
}

HWY_INLINE void encode_fp8(const RowFormat& format, const float* values, std::byte* row) {
  if (format.block == 0) return encode_block_e4m3(values, format.width, format.table_scale, 1, row);
  for (int64_t c = 0, b = 0; c < format.width; c += format.block, ++b) {
    const int64_t count = std::min(format.block, format.width - c);
    const uint8_t scale = smallest_e8m0(largest_magnitude(values + c, count));
    row[format.width + b] = std::byte{scale};
    const int lift = scale < 64 ? 64 : 0;  // 2^-127 is subnormal: zero where a program flushes such numbers
    encode_block_e4m3(values + c, count, std::ldexp(1.0f, scale - 127 + lift), std::ldexp(1.0f, lift), row + c);
  }
}

// int8 and int4. A block whose largest value is too small for a scale that is a normal number is stored as zeros.
HWY_INLINE void encode_integers(const RowFormat& format, const float* values, std::byte* row) {
  const bool nibbles = format.type == RowType::kInt4;
  const int limit = nibbles ? 7 : 127;
  const int64_t code_bytes = format.code_bytes();
  std::fill_n(row, code_bytes, std::byte{0});
  for (int64_t c = 0, b = 0; c < format.width; c += format.block, ++b) {
    const int64_t end = std::min(c + format.block, format.width);
    float scale = largest_magnitude(values + c, end - c) / static_cast<float>(limit);
    if (scale < std::numeric_limits<float>::min()) scale = 0;
    std::memcpy(row + code_bytes + b * 4, &scale, 4);
    if (scale == 0) continue;
    if (!nibbles) {
      encode_block(values + c, end - c, scale, limit, row + c);
      continue;
    }
    constexpr int64_t kChunk = 256;  // a block begins at an even column
    std::byte codes[kChunk];
    for (int64_t at = c; at < end; at += kChunk) {
      const int64_t count = std::min(kChunk, end - at);
      encode_block(values + at, count, scale, limit, codes);
      for (int64_t i = 0; i < count; i += 2) row[(at + i) / 2] = (codes[i] & std::byte{15}) | codes[i + 1] << 4;
    }
  }
}

// The first row that holds a value which is not finite and cannot be stored; count where there is none.
int64_t EncodeRows(const RowFormat& format, const float* values, int64_t count, std::byte* rows) {
  for (int64_t i = 0; i < count; ++i, values += format.width, rows += format.row_bytes()) {
    if (format.type == RowType::kFP32) {
      std::memcpy(rows, values, static_cast<size_t>(format.width) * 4);
    } else if (format.type == RowType::kBF16) {
      narrow_to_bf16(values, format.width, rows);
    } else if (std::isinf(largest_magnitude(values, format.width))) {
      return i;
    } else if (format.type == RowType::kFP8) {
      encode_fp8(format, values, rows);
    } else {
      encode_integers(format, values, rows);
    }
  }
  return count;
}

uint8_t EncodeE4M3(float value) {
  std::byte code;
  encode_block_e4m3(&value, 1, 1, 1, &code);
  return static_cast<uint8_t>(code);
}

}  // namespace HWY_NAMESPACE
}  // namespace engram
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram {

HWY_EXPORT(EncodeRows);
HWY_EXPORT(EncodeE4M3);

uint8_t encode_e4m3(float value) { return std::isnan(value) ? 0x7F : HWY_DYNAMIC_DISPATCH(EncodeE4M3)(value); }

Status encode_rows(const RowFormat& format, const float* values, int64_t count, std::byte* rows) {
  const int64_t encoded = HWY_DYNAMIC_DISPATCH(EncodeRows)(format, values, count, rows);
  if (encoded == count) return {};
  const float* row = values + encoded * format.width;
  const float* bad = std::find_if(row, row + format.width, [](float v) { return !std::isfinite(v); });
  return invalid_argument("row {} column {} is {}, which {} cannot hold", encoded, bad - row, *bad,
                          row_type_name(format.type));
}

}  // namespace engram
#endif  // HWY_ONCE
