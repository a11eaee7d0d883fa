// The oracle of row_codec.cc, in double arithmetic, where code * scale is exact.
#include <bit>
#include <cmath>
#include <cstring>

#include "engram/kernels/row_codec.h"

namespace engram {
namespace {

float load_float(const std::byte* from) {
  float value;
  std::memcpy(&value, from, 4);
  return value;
}

// One column of one row.
float decode_column(const RowFormat& format, const std::byte* row, int64_t column) {
  auto byte = [&](int64_t at) { return std::to_integer<uint8_t>(row[at]); };
  if (format.type == RowType::kFP32) return load_float(row + column * 4);
  if (format.type == RowType::kBF16)
    return widen_bf16(static_cast<uint16_t>(byte(2 * column) | byte(2 * column + 1) << 8));
  double code = 0, scale = format.table_scale;
  const int64_t scales = format.code_bytes();
  if (format.type == RowType::kFP8) {
    code = decode_e4m3(byte(column));
    if (format.block > 0) scale = decode_e8m0(byte(scales + column / format.block));
  } else {
    if (format.type == RowType::kInt8) {
      code = static_cast<int8_t>(byte(column));
    } else {
      const int nibble = byte(column / 2) >> (column % 2 * 4) & 15;
      code = nibble < 8 ? nibble : nibble - 16;
    }
    scale = load_float(row + scales + column / format.block * 4);
  }
  const auto value = static_cast<float>(code * scale);
  return std::isnan(value) ? std::bit_cast<float>(0x7FC00000u) : value;
}

}  // namespace

float decode_e4m3(uint8_t code) {
  const int magnitude = code & 0x7F, exponent = magnitude >> 3, mantissa = magnitude & 7;
  if (magnitude == 0x7F) return std::bit_cast<float>(0x7FC00000u);
  const double value = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return static_cast<float>(code & 0x80 ? -value : value);
}

float decode_e8m0(uint8_t code) {
  return code == 255 ? std::bit_cast<float>(0x7FC00000u) : static_cast<float>(std::ldexp(1.0, code - 127));
}

void decode_rows_plain(const RowFormat& format, const std::byte* rows, size_t stride, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    const std::byte* row = rows + static_cast<size_t>(i) * stride;
    for (int64_t c = 0; c < format.width; ++c) {
      if (format.type == RowType::kFP32) {
        std::memcpy(out++, row + c * 4, 4);
      } else {
        *out++ = decode_column(format, row, c);
      }
    }
  }
}

void decode_rows_bf16_plain(const RowFormat& format, const std::byte* rows, size_t stride, int64_t count,
                            uint16_t* out) {
  for (int64_t i = 0; i < count; ++i) {
    const std::byte* row = rows + static_cast<size_t>(i) * stride;
    for (int64_t c = 0; c < format.width; ++c) {
      if (format.type == RowType::kBF16) {
        std::memcpy(out++, row + c * 2, 2);
      } else {
        *out++ = round_to_bf16(decode_column(format, row, c));
      }
    }
  }
}

}  // namespace engram
