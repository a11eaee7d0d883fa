// The oracle of row_codec.cc, in double arithmetic, where code * scale is exact; and encoding, which is not on the path
// of a read.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "engram/kernels/row_codec.h"

namespace engram {
namespace {

constexpr float kE4M3Max = 448.0f;
constexpr float kLargestProduct = 0x1.Ep127f;  // of an e4m3 code and a power of two, within fp32

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

// Smallest e8m0 byte b with largest <= 448 * 2^(b - 127).
uint8_t smallest_e8m0(float largest) {
  if (largest == 0) return 127;
  int exponent;
  // largest = f * 2^exponent with f in [0.5, 1), and 448 = 0.875 * 2^9.
  const double f = std::frexp(static_cast<double>(largest), &exponent);
  return static_cast<uint8_t>(std::clamp(exponent - 9 + (f > 0.875 ? 1 : 0) + 127, 0, 254));
}

float largest_magnitude(const float* values, int64_t count) {
  float largest = 0;
  for (int64_t c = 0; c < count; ++c) largest = std::max(largest, std::fabs(values[c]));
  return largest;
}

void encode_fp8(const RowFormat& format, const float* values, std::byte* row) {
  const int64_t block = format.block == 0 ? format.width : format.block;
  for (int64_t c = 0, b = 0; c < format.width; c += block, ++b) {
    const int64_t count = std::min(block, format.width - c);
    double scale = format.table_scale;
    if (format.block > 0) {
      const uint8_t code = smallest_e8m0(largest_magnitude(values + c, count));
      row[format.width + b] = std::byte{code};
      scale = std::ldexp(1.0, code - 127);
    }
    // For a power of two the quotient is exact; for a table scale it is rounded once, to fp32.
    for (int64_t i = c; i < c + count; ++i) {
      const float value = std::clamp(values[i], -kLargestProduct, kLargestProduct);
      row[i] = std::byte{encode_e4m3(static_cast<float>(value / scale))};
    }
  }
}

// int8 and int4. A block whose largest value is too small for a scale that is a normal number is stored as zeros.
void encode_integers(const RowFormat& format, const float* values, std::byte* row) {
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
    for (int64_t i = c; i < end; ++i) {
      const int code = std::clamp(static_cast<int>(std::nearbyint(values[i] / scale)), -limit, limit);
      if (nibbles) {
        row[i / 2] |= static_cast<std::byte>((code & 15) << (i % 2 * 4));
      } else {
        row[i] = static_cast<std::byte>(code);
      }
    }
  }
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

uint8_t encode_e4m3(float value) {
  if (std::isnan(value)) return 0x7F;
  const uint8_t sign = std::signbit(value) ? 0x80 : 0;
  const float magnitude = std::min(std::fabs(value), kE4M3Max);
  // Below 2^-6 the step is 2^-9; above, an eighth of the power of two.
  int exponent = -6;
  if (magnitude >= 0x1p-6f) exponent = static_cast<int>(std::bit_cast<uint32_t>(magnitude) >> 23) - 127;
  const float step = std::bit_cast<float>(static_cast<uint32_t>(exponent - 3 + 127) << 23);
  const int steps = static_cast<int>(std::nearbyint(magnitude / step));  // 0 .. 16; ties to even by default
  const int code = (exponent + 6) * 8 + steps;  // 16 steps carry into the exponent by themselves
  return static_cast<uint8_t>(sign | code);
}

uint16_t round_to_bf16(float value) {
  if (std::isnan(value)) return 0x7FC0;
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t kept = bits >> 16, dropped = bits & 0xFFFF;
  const bool up = dropped > 0x8000 || (dropped == 0x8000 && (kept & 1) != 0);
  return static_cast<uint16_t>(kept + (up ? 1 : 0));
}

float widen_bf16(uint16_t value) { return std::bit_cast<float>(static_cast<uint32_t>(value) << 16); }

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

Status encode_rows(const RowFormat& format, const float* values, int64_t count, std::byte* rows) {
  for (int64_t i = 0; i < count; ++i, values += format.width, rows += format.row_bytes()) {
    if (format.type == RowType::kFP32) {
      std::memcpy(rows, values, static_cast<size_t>(format.width) * 4);
      continue;
    }
    if (format.type == RowType::kBF16) {
      for (int64_t c = 0; c < format.width; ++c) {
        const uint16_t half = round_to_bf16(values[c]);
        std::memcpy(rows + c * 2, &half, 2);
      }
      continue;
    }
    for (int64_t c = 0; c < format.width; ++c) {
      if (!std::isfinite(values[c]))
        return invalid_argument("row {} column {} is {}, which {} cannot hold", i, c, values[c],
                                row_type_name(format.type));
    }
    if (format.type == RowType::kFP8) {
      encode_fp8(format, values, rows);
    } else {
      encode_integers(format, values, rows);
    }
  }
  return {};
}

}  // namespace engram
