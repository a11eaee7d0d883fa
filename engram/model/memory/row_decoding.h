// Stored rows to numbers with libtorch operators: what kernels/row_codec.h does on the CPU, on any device.
//
// Rows reach a device as they are stored and are widened there, so that a row of fp8 costs its own bytes on the way.
#pragma once
#include <torch/types.h>

#include "engram/kernels/row_format.h"

namespace engram {

// bytes [n, format.row_bytes()] uint8 -> [n, format.width]: decode_rows()'s values bit for bit, rounded to `dtype`.
// Throws c10::Error on another shape.
torch::Tensor decode_rows_plain(const RowFormat& format, const torch::Tensor& bytes, torch::Dtype dtype);

}  // namespace engram
