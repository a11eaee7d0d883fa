// RowFormat: what the bytes of one table row mean. Decoding and encoding: engram/kernels/row_codec.h.
//
// A row has `width` columns. Its bytes are the codes of all columns, then the row's scales, without a gap:
//   kFP32  width x 4, little-endian                      kBF16  width x 2, little-endian
//   kFP8   width x 1, e4m3fn (bias 7, no infinity, 0x7F and 0xFF are NaN)
//   kInt8  width x 1, two's complement
//   kInt4  width / 2, two's complement nibbles, the even column in the low one
// Scales, one for every `block` consecutive columns (the last block may be shorter):
//   kFP8   one e8m0 byte b, 2^(b - 127), 255 is NaN; or block == 0: none in the row, `table_scale` holds for all rows
//   kInt8, kInt4   one float, little-endian; block == width is one scale for the row
// A column's value is code * scale, rounded once to fp32. DeepSeek-V4.1's rows are {kFP8, 256, 32}: 256 + 8 bytes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "engram/core/status.h"

namespace engram {

enum class RowType { kFP32, kBF16, kFP8, kInt8, kInt4 };

const char* row_type_name(RowType type);  // "fp32", "bf16", "fp8", "int8", "int4"
// kInvalidArgument names what is allowed.
Result<RowType> parse_row_type(std::string_view name);

inline constexpr int64_t kMaxRowWidth = int64_t{1} << 20;

// Plain value. Code that fills one from a file or a flag calls check() first; every other function requires it.
struct RowFormat {
  RowType type = RowType::kFP32;
  int64_t width = 0;         // columns: head_dim
  int64_t block = 0;         // columns per scale; 0 for kFP32, kBF16 and for kFP8 with one scale
  float table_scale = 1.0f;  // kFP8 with block == 0 only, else 1

  // kInvalidArgument: width outside 1 .. kMaxRowWidth, a block that the type does not have or that exceeds the width,
  // an odd width or block for kInt4, a table_scale that is not finite and positive or that nothing uses.
  Status check() const;
  int64_t num_scales() const;  // per row
  int64_t code_bytes() const;
  int64_t row_bytes() const;      // codes and scales
  std::string to_string() const;  // "fp8, 256 columns, a scale per 32"

  friend bool operator==(const RowFormat&, const RowFormat&) = default;
};

// The usual format of a type: fp8 with an e8m0 scale per 32 columns, int8 with one scale a row, int4 with one per 32.
RowFormat default_row_format(RowType type, int64_t width);

}  // namespace engram
