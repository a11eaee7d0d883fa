#include "engram/store/import/tensor_source.h"

#include <cstring>

#include "engram/store/import/import.h"

namespace engram::import {

Status TensorSource::do_read_rows(int table, int64_t first, int64_t count, std::byte* out) const {
  const int64_t row_bytes = tables_[static_cast<size_t>(table)].format.row_bytes();
  visit_pieces(
      pieces_[static_cast<size_t>(table)], first, count, [](const TensorView& piece) { return piece.shape[0]; },
      [&](const TensorView& piece, int64_t row, int64_t rows) {
        std::memcpy(out, piece.bytes.data() + row * row_bytes, static_cast<size_t>(rows * row_bytes));
        out += rows * row_bytes;
      });
  return {};
}

}  // namespace engram::import
