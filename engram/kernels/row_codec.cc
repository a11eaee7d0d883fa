#include "engram/kernels/row_codec.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engram/kernels/row_codec.cc"
#include <hwy/foreach_target.h>

#include "engram/kernels/bf16-inl.h"

#include <algorithm>
#include <bit>
#include <cstring>

HWY_BEFORE_NAMESPACE();
namespace engram {
namespace HWY_NAMESPACE {

// The next n codes as 32-bit words; bytes past n are not touched.
HWY_INLINE Words load_bytes(const uint8_t* from, int64_t n) {
  const WordTag d;
  const hn::Rebind<uint8_t, WordTag> bytes;
  if (HWY_LIKELY(n == lanes())) return hn::PromoteTo(d, hn::LoadU(bytes, from));
  uint8_t padded[HWY_MAX_BYTES / 4] = {};
  std::memcpy(padded, from, static_cast<size_t>(n));
  return hn::PromoteTo(d, hn::LoadU(bytes, padded));
}

HWY_INLINE Floats not_a_number() { return hn::BitCast(FloatTag(), hn::Set(WordTag(), 0x7FC00000u)); }

HWY_INLINE Floats canonical(Floats v) { return hn::IfThenElse(hn::IsNaN(v), not_a_number(), v); }

// Exponent 1..15 is a shift and a new bias; exponent 0 is mantissa * 2^-9, through an integer so that no subnormal is
// ever an operand.
struct E4M3 {
  static HWY_INLINE Floats value(Words code) {
    const FloatTag d;
    const WordTag dw;
    const hn::RebindToSigned<FloatTag> di;
    const Words magnitude = hn::And(code, hn::Set(dw, 0x7Fu));
    const Words sign = hn::ShiftLeft<24>(hn::And(code, hn::Set(dw, 0x80u)));
    const Words normal = hn::Add(hn::ShiftLeft<20>(magnitude), hn::Set(dw, 120u << 23));
    const Floats small = hn::Mul(hn::ConvertTo(d, hn::BitCast(di, magnitude)), splat(0x1p-9f));
    const auto is_small = hn::Lt(hn::BitCast(di, magnitude), hn::Set(di, 8));
    const Floats value = hn::IfThenElse(hn::RebindMask(d, is_small), small, hn::BitCast(d, normal));
    const Floats with_sign = hn::BitCast(d, hn::Or(hn::BitCast(dw, value), sign));
    const auto is_nan = hn::Eq(magnitude, hn::Set(dw, 0x7Fu));
    return hn::IfThenElse(hn::RebindMask(d, is_nan), not_a_number(), with_sign);
  }
};

struct Int8 {
  static HWY_INLINE Floats value(Words code) {
    const hn::RebindToSigned<FloatTag> di;
    return hn::ConvertTo(FloatTag(), hn::ShiftRight<24>(hn::BitCast(di, hn::ShiftLeft<24>(code))));
  }
};

// Nibbles that were spread to bytes.
struct Int4 {
  static HWY_INLINE Floats value(Words code) {
    const hn::RebindToSigned<FloatTag> di;
    return hn::ConvertTo(FloatTag(), hn::ShiftRight<28>(hn::BitCast(di, hn::ShiftLeft<28>(code))));
  }
};

struct ToFP32 {
  using Out = float;
  static HWY_INLINE void put(Floats v, float* to, int64_t n) { store(v, to, n); }
};

struct ToBF16 {
  using Out = uint16_t;
  static HWY_INLINE void put(Floats v, uint16_t* to, int64_t n) { store_halves(bf16_words(v), to, n); }
};

// Columns [0, count) that share one scale.
template <class Code, class To>
HWY_INLINE void decode_block(const uint8_t* codes, int64_t count, float scale, typename To::Out* out) {
  const Floats s = splat(scale);
  int64_t c = 0;
  for (; c + lanes() <= count; c += lanes())
    To::put(canonical(hn::Mul(Code::value(load_bytes(codes + c, lanes())), s)), out + c, lanes());
  if (c < count) To::put(canonical(hn::Mul(Code::value(load_bytes(codes + c, count - c)), s)), out + c, count - c);
}

HWY_INLINE float scale_of(const RowFormat& format, const uint8_t* scales, int64_t block) {
  if (format.block == 0) return format.table_scale;
  if (format.type == RowType::kFP8) {
    const uint32_t b = scales[block];
    return std::bit_cast<float>(b == 0 ? 0x00400000u : b == 255 ? 0x7FC00000u : b << 23);
  }
  float scale;
  std::memcpy(&scale, scales + block * 4, 4);
  return scale;
}

template <class Code, class To>
void DecodeBytes(const RowFormat& format, const uint8_t* row, typename To::Out* out) {
  const int64_t block = format.block == 0 ? format.width : format.block;
  const uint8_t* scales = row + format.width;
  for (int64_t c = 0, b = 0; c < format.width; c += block, ++b)
    decode_block<Code, To>(row + c, std::min(block, format.width - c), scale_of(format, scales, b), out + c);
}

template <class To>
void DecodeNibbles(const RowFormat& format, const uint8_t* row, typename To::Out* out) {
  constexpr int64_t kChunk = 256;
  uint8_t spread[kChunk];
  const uint8_t* scales = row + format.width / 2;
  for (int64_t c = 0, b = 0; c < format.width; c += format.block, ++b) {
    const float scale = scale_of(format, scales, b);
    const int64_t end = std::min(c + format.block, format.width);
    for (int64_t at = c; at < end; at += kChunk) {
      const int64_t count = std::min(kChunk, end - at);
      for (int64_t i = 0; i < count / 2; ++i) {
        const uint8_t pair = row[at / 2 + i];
        spread[2 * i] = pair & 15;
        spread[2 * i + 1] = pair >> 4;
      }
      decode_block<Int4, To>(spread, count, scale, out + at);
    }
  }
}

void WidenRow(const uint8_t* row, int64_t width, float* out) {
  const FloatTag d;
  int64_t c = 0;
  for (; c + lanes() <= width; c += lanes())
    store(hn::BitCast(d, hn::ShiftLeft<16>(load_halves(row + c * 2, lanes()))), out + c, lanes());
  if (c < width) store(hn::BitCast(d, hn::ShiftLeft<16>(load_halves(row + c * 2, width - c))), out + c, width - c);
}

void NarrowRow(const uint8_t* row, int64_t width, uint16_t* out) {
  float values[HWY_MAX_BYTES / 4];
  for (int64_t c = 0; c < width; c += lanes()) {
    const int64_t n = valid_lanes(c, width);
    std::memcpy(values, row + c * 4, static_cast<size_t>(n) * 4);
    ToBF16::put(load(values, n), out + c, n);
  }
}

void DecodeRowsFP32(const RowFormat& format, const std::byte* rows, size_t stride, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i, out += format.width) {
    const auto* row = reinterpret_cast<const uint8_t*>(rows) + static_cast<size_t>(i) * stride;
    switch (format.type) {
      case RowType::kFP32: std::memcpy(out, row, static_cast<size_t>(format.width) * 4); break;
      case RowType::kBF16: WidenRow(row, format.width, out); break;
      case RowType::kFP8: DecodeBytes<E4M3, ToFP32>(format, row, out); break;
      case RowType::kInt8: DecodeBytes<Int8, ToFP32>(format, row, out); break;
      case RowType::kInt4: DecodeNibbles<ToFP32>(format, row, out); break;
    }
  }
}

void DecodeRowsBF16(const RowFormat& format, const std::byte* rows, size_t stride, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; ++i, out += format.width) {
    const auto* row = reinterpret_cast<const uint8_t*>(rows) + static_cast<size_t>(i) * stride;
    switch (format.type) {
      case RowType::kFP32: NarrowRow(row, format.width, out); break;
      case RowType::kBF16: std::memcpy(out, row, static_cast<size_t>(format.width) * 2); break;
      case RowType::kFP8: DecodeBytes<E4M3, ToBF16>(format, row, out); break;
      case RowType::kInt8: DecodeBytes<Int8, ToBF16>(format, row, out); break;
      case RowType::kInt4: DecodeNibbles<ToBF16>(format, row, out); break;
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace engram
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram {

HWY_EXPORT(DecodeRowsFP32);
HWY_EXPORT(DecodeRowsBF16);

void decode_rows(const RowFormat& format, const std::byte* rows, size_t stride, int64_t count, float* out) {
  HWY_DYNAMIC_DISPATCH(DecodeRowsFP32)(format, rows, stride, count, out);
}

void decode_rows_bf16(const RowFormat& format, const std::byte* rows, size_t stride, int64_t count, uint16_t* out) {
  HWY_DYNAMIC_DISPATCH(DecodeRowsBF16)(format, rows, stride, count, out);
}

}  // namespace engram
#endif  // HWY_ONCE
