#include "engram/store/import/table_source.h"

#include <algorithm>
#include <cstring>

#include "engram/kernels/row_codec.h"

namespace engram {
Result<int> TableSource::find_layer(int layer_id) const {
  std::string there;
  for (size_t i = 0; i < tables_.size(); ++i) {
    if (tables_[i].layer_id == layer_id) return static_cast<int>(i);
    there += fmt::format("{}{}", i == 0 ? "" : ", ", tables_[i].layer_id);
  }
  return not_found("{}: no table of layer {}, there are {}", path_, layer_id, there);
}

Status TableSource::read_rows(int table, int64_t first, int64_t count, std::span<std::byte> out) const {
  if (table < 0 || static_cast<size_t>(table) >= tables_.size())
    return invalid_argument("{}: table {}, wanted 0 .. {}", path_, table, tables_.size() - 1);
  const SourceTable& from = tables_[static_cast<size_t>(table)];
  if (first < 0 || count < 0 || first > from.num_rows || count > from.num_rows - first)
    return make_status(StatusCode::kOutOfRange, "{}: layer {}: rows {} .. {}, there are {}", path_, from.layer_id,
                       first, first + count - 1, from.num_rows);
  if (out.size() != static_cast<size_t>(count * from.format.row_bytes()))
    return invalid_argument("{}: a buffer of {} bytes for {} rows of {}", path_, out.size(), count,
                            from.format.row_bytes());
  if (count > 0) ENGRAM_RETURN_IF_ERROR(do_read_rows(table, first, count, out.data()));
  return check_unchanged();
}

Status TableSource::read_values(int table, std::span<const int64_t> row_ids, std::span<float> out) const {
  if (table < 0 || static_cast<size_t>(table) >= tables_.size())
    return invalid_argument("{}: table {}, wanted 0 .. {}", path_, table, tables_.size() - 1);
  const SourceTable& from = tables_[static_cast<size_t>(table)];
  const auto width = static_cast<size_t>(from.format.width);
  if (out.size() != row_ids.size() * width)
    return invalid_argument("{}: a buffer of {} floats for {} rows of {}", path_, out.size(), row_ids.size(), width);
  for (const int64_t id : row_ids) {
    if (id < 0 || id >= from.num_rows)
      return make_status(StatusCode::kOutOfRange, "{}: layer {}: row id is {}, wanted 0 .. {}", path_, from.layer_id,
                         id, from.num_rows - 1);
  }
  // Ids that follow each other are read together.
  constexpr size_t kMostTogether = 4096;
  const auto row_bytes = static_cast<size_t>(from.format.row_bytes());
  std::vector<std::byte> rows;
  for (size_t begin = 0, end; begin < row_ids.size(); begin = end) {
    for (end = begin + 1; end < row_ids.size() && end - begin < kMostTogether && row_ids[end] == row_ids[end - 1] + 1;)
      ++end;
    const auto count = static_cast<int64_t>(end - begin);
    rows.resize((end - begin) * row_bytes);
    ENGRAM_RETURN_IF_ERROR(do_read_rows(table, row_ids[begin], count, rows.data()));
    decode_rows(from.format, rows.data(), row_bytes, count, out.data() + begin * width);
  }
  return check_unchanged();
}

}  // namespace engram
