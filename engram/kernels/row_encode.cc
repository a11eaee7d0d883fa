// encode_rows(): table rows as they are stored. Not on the path of a read, so plain loops.
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
