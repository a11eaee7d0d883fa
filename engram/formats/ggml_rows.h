// Rows as ggml quantises them, decoded to fp32: the reference loops, for import and not for reads.
//
// Values equal those of the Python package `gguf` bit for bit (tests/parity). Blocks: ggml's ggml-common.h. One
// encoding is not ggml's: lloyd4_e5m3_32_r136, a 4-bit code into a fixed codebook and a scale byte per 32 columns.
#pragma once
#include <cstddef>
#include <cstdint>

#include "engram/core/status.h"

namespace engram {

struct GgmlType {
  uint32_t id;
  const char* name;  // "Q4_K"
  int64_t block_columns;
  int64_t block_bytes;
  void (*decode_block)(const std::byte* block, float* out);  // out [block_columns]

  int64_t row_bytes(int64_t width) const { return width / block_columns * block_bytes; }
};

inline constexpr uint32_t kGgmlI8 = 24, kGgmlF32 = 0, kGgmlF16 = 1, kGgmlBF16 = 30, kGgmlQ8_0 = 8, kGgmlQ4_K = 12;

// nullptr for a type without a decoder here: F32, F16, BF16, Q4_0 .. Q5_1, Q8_0, Q2_K .. Q6_K have one.
const GgmlType* find_ggml_type(uint32_t id);

// REQUIRES: width is a multiple of type.block_columns.
void decode_ggml_row(const GgmlType& type, const std::byte* row, int64_t width, float* out);
// width / 2 bytes of codes (even column in the low nibble; sign << 3 | index), then width / 32 scales E << 3 | M, each
// (8 + M) / 16 * 2^(E - 16). REQUIRES: width is a multiple of 32.
void decode_lloyd4_row(const std::byte* row, int64_t width, float* out);

float widen_fp16(uint16_t value);

}  // namespace engram
