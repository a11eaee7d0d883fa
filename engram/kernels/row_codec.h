// Row codec: table rows as stored (engram/kernels/row_format.h) to fp32 or bf16, and back.
//
// Decoding is exact: the fp32 value is code * scale rounded once, the bf16 value is that fp32 value rounded to nearest,
// ties to even, as DeepSeek-V4.1's reference does it; e8m0 byte 0 is 2^-127 (a subnormal, not 0). A value that is not a
// number comes out as 0x7FC00000 or 0x7FC0; fp32 rows decoded to fp32, and bf16 rows decoded to bf16, keep every bit.
// The vector code and the plain loops beside it (_plain) give the same bits on every machine, and those of PyTorch's
// float8_e4m3fn and float8_e8m0fnu: tests/parity/row_codec.safetensors.
//
// Formats satisfy RowFormat::check(). Rows lie `stride` bytes apart, need no alignment, and may hold any bytes. Any
// thread; no allocation.
#pragma once
#include <cstddef>
#include <cstdint>

#include "engram/core/status.h"
#include "engram/kernels/bf16.h"
#include "engram/kernels/row_format.h"

namespace engram {

// rows [count] of row_bytes() each, `stride` apart;  out [count, width].
void decode_rows(const RowFormat& format, const std::byte* rows, size_t stride, int64_t count, float* out);
void decode_rows_bf16(const RowFormat& format, const std::byte* rows, size_t stride, int64_t count, uint16_t* out);

void decode_rows_plain(const RowFormat& format, const std::byte* rows, size_t stride, int64_t count, float* out);
void decode_rows_bf16_plain(const RowFormat& format, const std::byte* rows, size_t stride, int64_t count,
                            uint16_t* out);

// values [count, width] to rows [count] back to back, each code the nearest to value / scale (ties to even).
//   fp8   scale: the smallest power of two with |value| / scale <= 448 in the block; rows that came from fp8 are then
//         encoded without loss. block == 0: the table_scale; values beyond 448 * table_scale become that. Values beyond
//         1.875 * 2^127, whose code times scale could be infinite, become that.
//   int8, int4   scale: largest |value| of the block / 127 or / 7
// kInvalidArgument: a NaN or an infinity for fp8, int8 or int4 (row, column); rows before it are written.
Status encode_rows(const RowFormat& format, const float* values, int64_t count, std::byte* rows);

// The single steps, for tests and importers.
float decode_e4m3(uint8_t code);   // NaN for 0x7F and 0xFF
float decode_e8m0(uint8_t code);   // NaN for 255
uint8_t encode_e4m3(float value);  // nearest, ties to even; beyond 448 saturates; NaN becomes 0x7F

}  // namespace engram
