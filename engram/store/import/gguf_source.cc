#include "engram/store/import/gguf_source.h"

#include <algorithm>
#include <cstring>

#include "engram/core/json.h"
#include "engram/store/import/import.h"

namespace engram::import {
namespace {

constexpr int64_t kBlock = 32;

// Blocks of f16 scale and 32 codes become all codes and then all scales, as floats: nothing is lost.
void repack_q8(const std::byte* from, int64_t width, std::byte* out) {
  for (int64_t block = 0; block < width / kBlock; ++block, from += 2 + kBlock) {
    uint16_t half;
    std::memcpy(&half, from, 2);
    const float scale = widen_fp16(half);
    std::memcpy(out + block * kBlock, from + 2, kBlock);
    std::memcpy(out + width + block * 4, &scale, 4);
  }
}

void read_piece(const StoredRows& piece, const RowFormat& format, int64_t first, int64_t count, std::byte* out) {
  const std::byte* from = piece.bytes.data() + first * piece.stored_bytes;
  if (piece.storage == Storage::kAsIs) {
    std::memcpy(out, from, static_cast<size_t>(count * piece.stored_bytes));
    return;
  }
  std::vector<float> values(static_cast<size_t>(format.width));
  for (int64_t i = 0; i < count; ++i, from += piece.stored_bytes, out += format.row_bytes()) {
    if (piece.storage == Storage::kQ8) {
      repack_q8(from, format.width, out);
      continue;
    }
    if (piece.storage == Storage::kGgml) {
      decode_ggml_row(*piece.type, from, format.width, values.data());
    } else {
      decode_lloyd4_row(from, format.width, values.data());
    }
    std::memcpy(out, values.data(), values.size() * sizeof(float));
  }
}

}  // namespace

Status GgufSource::do_read_rows(int table, int64_t first, int64_t count, std::byte* out) const {
  const RowFormat& format = tables_[static_cast<size_t>(table)].format;
  visit_pieces(
      pieces_[static_cast<size_t>(table)], first, count, [](const StoredRows& piece) { return piece.num_rows; },
      [&](const StoredRows& piece, int64_t row, int64_t rows) {
        read_piece(piece, format, row, rows, out);
        out += rows * format.row_bytes();
      });
  return {};
}

Status GgufSource::check_unchanged() const {
  ENGRAM_RETURN_IF_ERROR(file_.readable());
  for (const auto& sidecar : sidecars_) ENGRAM_RETURN_IF_ERROR(sidecar->readable());
  return {};
}

Status compare(const GgufFile& file, const std::string& key, const std::vector<int64_t>& got,
               const std::vector<int64_t>& wanted) {
  if (got.size() != wanted.size())
    return invalid_argument("{}: key {} has {} elements, wanted {}", file.path(), key, got.size(), wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (got[i] != wanted[i])
      return invalid_argument("{}: key {} holds {} at {}, wanted {}", file.path(), key, got[i], i, wanted[i]);
  }
  return {};
}

Status choose_storage(const std::string& encoding, uint32_t type, int64_t row_size, SourceTable* table,
                      StoredRows* stored) {
  table->encoding = encoding;
  if (encoding == "e4m3_e8m0_32_row264" || encoding == "lloyd4_e5m3_32_r136") {
    const bool is_fp8 = encoding.starts_with("e4m3");
    const int64_t per_block = is_fp8 ? kBlock + 1 : kBlock / 2 + 1;
    if (row_size < 1 || row_size % per_block != 0 || row_size / per_block > kMaxRowWidth / kBlock)
      return invalid_argument("rows of {} bytes in encoding {}", row_size, encoding);
    const int64_t width = row_size / per_block * kBlock;
    table->format = is_fp8 ? RowFormat{RowType::kFP8, width, kBlock} : RowFormat{RowType::kFP32, width};
    stored->storage = is_fp8 ? Storage::kAsIs : Storage::kLloyd4;
    stored->stored_bytes = row_size;
    return {};
  }
  int64_t width = row_size;
  if (encoding == "q4_k_row144") {
    type = kGgmlQ4_K;
    width = row_size / 144 * 256;
    if (row_size % 144 != 0) return invalid_argument("rows of {} bytes in encoding {}", row_size, encoding);
  } else if (!encoding.empty()) {
    return invalid_argument("encoding is {}, which is not known here", quote_text(encoding));
  }
  stored->type = find_ggml_type(type);
  if (stored->type == nullptr) return invalid_argument("ggml type {}, which has no decoder here", type);
  if (width < 1 || width > kMaxRowWidth || width % stored->type->block_columns != 0)
    return invalid_argument("rows of {} columns in blocks of {} ({})", width, stored->type->block_columns,
                            stored->type->name);
  if (encoding.empty()) table->encoding = stored->type->name;
  stored->stored_bytes = stored->type->row_bytes(width);
  stored->storage = Storage::kAsIs;
  if (type == kGgmlBF16) {
    table->format = {RowType::kBF16, width};
  } else if (type == kGgmlQ8_0) {
    table->format = {RowType::kInt8, width, kBlock};
    stored->storage = Storage::kQ8;
  } else {
    table->format = {RowType::kFP32, width};
    if (type != kGgmlF32) stored->storage = Storage::kGgml;
  }
  return {};
}

Status take_bytes(const std::string& where, std::span<const std::byte> available, const SourceTable& table,
                  StoredRows* stored) {
  int64_t bytes;
  if (__builtin_mul_overflow(table.num_rows, stored->stored_bytes, &bytes) ||
      static_cast<uint64_t>(bytes) > available.size())
    return data_loss("{}: {} rows of {} bytes, the file has {} bytes for them", where, table.num_rows,
                     stored->stored_bytes, available.size());
  stored->num_rows = table.num_rows;
  stored->bytes = available.first(static_cast<size_t>(bytes));
  return {};
}

Status add_inner_table(GgufSource& source, const std::vector<std::string>& names, int layer_id,
                       const std::vector<int64_t>& num_rows, const std::string& encoding) {
  SourceTable whole;
  std::vector<StoredRows> pieces(names.size());
  for (size_t i = 0; i < names.size(); ++i) {
    const auto at = source.file().tensors().find(names[i]);
    if (at == source.file().tensors().end()) return not_found("{}: no tensor {}", source.path(), names[i]);
    const GgufTensor& tensor = at->second;
    const std::string where = fmt::format("{}: tensor {}", source.path(), names[i]);
    if (tensor.shape.size() < 2 || tensor.shape[1] != num_rows[i] ||
        std::any_of(tensor.shape.begin() + 2, tensor.shape.end(), [](int64_t size) { return size != 1; }))
      return invalid_argument("{} has shape {}, wanted [row, {}]", where, shape_text(tensor.shape), num_rows[i]);
    SourceTable table{layer_id, num_rows[i], {}, ""};
    ENGRAM_RETURN_IF_ERROR(
        choose_storage(encoding, tensor.type, tensor.shape[0], &table, &pieces[i]).with_context(where));
    ENGRAM_RETURN_IF_ERROR(take_bytes(where, tensor.bytes, table, &pieces[i]));
    if (i > 0 && (table.encoding != whole.encoding || !(table.format == whole.format)))
      return invalid_argument("{} is {} {}, tensor {} is {} {}", where, table.encoding, table.format.to_string(),
                              names[0], whole.encoding, whole.format.to_string());
    table.num_rows += whole.num_rows;
    whole = std::move(table);
  }
  source.add_table(std::move(whole), std::move(pieces));
  return {};
}

}  // namespace engram::import
