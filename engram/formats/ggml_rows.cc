#include "engram/formats/ggml_rows.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>

namespace engram {
namespace {

constexpr int kSuperBlock = 256;

uint8_t byte(const std::byte* from, int at) { return std::to_integer<uint8_t>(from[at]); }

template <typename T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

float half(const std::byte* from) { return widen_fp16(load<uint16_t>(from)); }

void decode_f32(const std::byte* block, float* out) { std::memcpy(out, block, sizeof(float)); }
void decode_f16(const std::byte* block, float* out) { *out = half(block); }
void decode_bf16(const std::byte* block, float* out) {
  *out = std::bit_cast<float>(static_cast<uint32_t>(load<uint16_t>(block)) << 16);
}

// d f16, 16 bytes: column i in the low nibble of byte i, column i + 16 in the high one, each less 8.
void decode_q4_0(const std::byte* block, float* out) {
  const float d = half(block);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((byte(block, 2 + i) & 15) - 8);
    out[i + 16] = d * static_cast<float>((byte(block, 2 + i) >> 4) - 8);
  }
}

// d, m f16, 16 bytes of codes as in Q4_0, each times d, plus m.
void decode_q4_1(const std::byte* block, float* out) {
  const float d = half(block), m = half(block + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(byte(block, 4 + i) & 15) + m;
    out[i + 16] = d * static_cast<float>(byte(block, 4 + i) >> 4) + m;
  }
}

// The codes of 5 bits in Q5_0 and Q5_1: 32 fifth bits in the order of the columns, 16 bytes as in Q4_0.
int fifth(const std::byte* bits, int column) {
  const int low = byte(bits, 4 + column % 16) >> (column / 16 * 4) & 15;
  return low | (byte(bits, column / 8) >> column % 8 & 1) << 4;
}

// d f16, codes less 16.
void decode_q5_0(const std::byte* block, float* out) {
  const float d = half(block);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(fifth(block + 2, i) - 16);
}

// d, m f16, codes.
void decode_q5_1(const std::byte* block, float* out) {
  const float d = half(block), m = half(block + 2);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(fifth(block + 4, i)) + m;
}

// d f16, 32 int8.
void decode_q8_0(const std::byte* block, float* out) {
  const float d = half(block);
  for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(static_cast<int8_t>(byte(block, 2 + i))) * d;
}

// 16 bytes of scale and minimum (4 bits each), 64 bytes of 2-bit codes, d, dmin.
void decode_q2_k(const std::byte* block, float* out) {
  const float d = half(block + 80), dmin = half(block + 82);
  for (int c = 0; c < kSuperBlock; ++c) {
    const int scales = byte(block, c / 16);
    const int code = byte(block, 16 + c / 128 * 32 + c % 32) >> (c % 128 / 32 * 2) & 3;
    out[c] = d * static_cast<float>(scales & 15) * static_cast<float>(code) - dmin * static_cast<float>(scales >> 4);
  }
}

// 32 bytes of high bits (a set bit means that nothing is subtracted), 64 bytes of low bits, 16 scales of 6 bits, d.
void decode_q3_k(const std::byte* block, float* out) {
  const std::byte* scales = block + 96;
  const float d = half(block + 108);
  for (int c = 0; c < kSuperBlock; ++c) {
    const int group = c / 16;
    const int low = byte(scales, group % 8) >> (group / 8 * 4) & 15;
    const int high = byte(scales, 8 + group % 4) >> (group / 4 * 2) & 3;
    const float scale = d * static_cast<float>((low | high << 4) - 32);
    const int code = byte(block, 32 + c / 128 * 32 + c % 32) >> (c % 128 / 32 * 2) & 3;
    const int bit = byte(block, c % 32) >> (c / 32) & 1;
    out[c] = scale * static_cast<float>(code - (bit ? 0 : 4));
  }
}

// Scale and minimum of one of the eight groups of 32 columns of Q4_K and Q5_K: 6 bits each in 12 bytes.
struct ScaleMin {
  float scale, minimum;
};
ScaleMin scale_and_minimum(const std::byte* packed, int group) {
  int scale, minimum;
  if (group < 4) {
    scale = byte(packed, group) & 63;
    minimum = byte(packed, group + 4) & 63;
  } else {
    scale = (byte(packed, group + 4) & 15) | (byte(packed, group - 4) >> 6) << 4;
    minimum = (byte(packed, group + 4) >> 4) | (byte(packed, group) >> 6) << 4;
  }
  return {static_cast<float>(scale), static_cast<float>(minimum)};
}

// d, dmin, 12 bytes of scales, (Q5_K: 32 bytes of fifth bits), 128 bytes of 4-bit codes.
void decode_q45_k(const std::byte* block, bool has_fifth_bit, float* out) {
  const float d = half(block), dmin = half(block + 2);
  const std::byte* codes = block + (has_fifth_bit ? 48 : 16);
  for (int c = 0; c < kSuperBlock; ++c) {
    const int group = c / 32;
    const ScaleMin s = scale_and_minimum(block + 4, group);
    int code = byte(codes, group / 2 * 32 + c % 32) >> (group % 2 * 4) & 15;
    if (has_fifth_bit) code |= (byte(block, 16 + c % 32) >> group & 1) << 4;
    out[c] = d * s.scale * static_cast<float>(code) - dmin * s.minimum;
  }
}
void decode_q4_k(const std::byte* block, float* out) { decode_q45_k(block, false, out); }
void decode_q5_k(const std::byte* block, float* out) { decode_q45_k(block, true, out); }

// 128 bytes of low 4 bits, 64 bytes of high 2 bits, 16 int8 scales, d.
void decode_q6_k(const std::byte* block, float* out) {
  const float d = half(block + 208);
  for (int c = 0; c < kSuperBlock; ++c) {
    const int low = byte(block, c / 128 * 64 + c % 64) >> (c % 128 / 64 * 4) & 15;
    const int high = byte(block, 128 + c / 128 * 32 + c % 32) >> (c % 128 / 32 * 2) & 3;
    const auto scale = static_cast<float>(static_cast<int8_t>(byte(block, 192 + c / 16)));
    out[c] = d * scale * static_cast<float>((low | high << 4) - 32);
  }
}

constexpr std::array kTypes = {
    GgmlType{kGgmlF32, "F32", 1, 4, decode_f32},        GgmlType{kGgmlF16, "F16", 1, 2, decode_f16},
    GgmlType{kGgmlBF16, "BF16", 1, 2, decode_bf16},     GgmlType{2, "Q4_0", 32, 18, decode_q4_0},
    GgmlType{3, "Q4_1", 32, 20, decode_q4_1},           GgmlType{6, "Q5_0", 32, 22, decode_q5_0},
    GgmlType{7, "Q5_1", 32, 24, decode_q5_1},           GgmlType{kGgmlQ8_0, "Q8_0", 32, 34, decode_q8_0},
    GgmlType{10, "Q2_K", 256, 84, decode_q2_k},         GgmlType{11, "Q3_K", 256, 110, decode_q3_k},
    GgmlType{kGgmlQ4_K, "Q4_K", 256, 144, decode_q4_k}, GgmlType{13, "Q5_K", 256, 176, decode_q5_k},
    GgmlType{14, "Q6_K", 256, 210, decode_q6_k},
};

// Lloyd-Max levels of |value| / largest, as published with the encoding.
constexpr std::array<float, 8> kLloyd4 = {0.0f, 0.095f, 0.1901f, 0.2944f, 0.4126f, 0.5586f, 0.7484f, 1.0f};

}  // namespace

float widen_fp16(uint16_t value) {
  const uint32_t sign = (value & 0x8000u) << 16, exponent = value >> 10 & 31, mantissa = value & 1023;
  if (exponent == 0)
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(static_cast<float>(mantissa) * 0x1p-24f));
  return std::bit_cast<float>(sign | (exponent == 31 ? 255 : exponent + 112) << 23 | mantissa << 13);
}

const GgmlType* find_ggml_type(uint32_t id) {
  for (const GgmlType& type : kTypes) {
    if (type.id == id) return &type;
  }
  return nullptr;
}

void decode_ggml_row(const GgmlType& type, const std::byte* row, int64_t width, float* out) {
  for (int64_t c = 0; c < width; c += type.block_columns, row += type.block_bytes) type.decode_block(row, out + c);
}

void decode_lloyd4_row(const std::byte* row, int64_t width, float* out) {
  const std::byte* scales = row + width / 2;
  for (int64_t c = 0; c < width; ++c) {
    const int scale_code = std::to_integer<int>(scales[c / 32]);
    const float scale = std::ldexp(static_cast<float>(8 + (scale_code & 7)), (scale_code >> 3) - 20);
    const int code = std::to_integer<int>(row[c / 2]) >> (c % 2 * 4) & 15;
    const float value = kLloyd4[static_cast<size_t>(code & 7)] * scale;
    out[c] = code & 8 ? -value : value;
  }
}

}  // namespace engram
