#include <algorithm>
#include <cstring>
#include <memory>

#include "engram/store/rowfile/row_file.h"

namespace engram {
namespace {

constexpr size_t kPage = kRowPageBytes, kPayload = kRowPagePayload;

// Copies the rows [row, end) of a table from its checked pages, which start with the page of `row`.
void unpack_rows(const RowTable& table, int64_t row, int64_t end, const std::byte* pages, std::byte* out) {
  const int64_t first_page = table.page_of(row);
  const auto row_bytes = static_cast<size_t>(table.row_bytes);
  for (; row < end; ++row) {
    const std::byte* from = pages + static_cast<size_t>(table.page_of(row) - first_page) * kPage;
    if (table.rows_per_page > 0) {
      std::memcpy(out, from + table.offset_of(row), row_bytes);
    } else {
      for (size_t done = 0; done < row_bytes; done += kPayload, from += kPage)
        std::memcpy(out + done, from, std::min(kPayload, row_bytes - done));
    }
    out += row_bytes;
  }
}

}  // namespace

Result<RowFileReader> RowFileReader::open(Env& env, const std::string& path) {
  RowFileReader reader;
  reader.path_ = path;
  ENGRAM_ASSIGN_OR_RETURN(reader.file_, env.new_random_access_file(path));
  ENGRAM_ASSIGN_OR_RETURN(reader.info_, RowFileInfo::read(*reader.file_, path));
  return reader;
}

Status RowFileReader::read_pages(int64_t first_page, std::span<std::byte> pages) const {
  const auto count = static_cast<int64_t>(pages.size() / kPage);
  if (pages.size() % kPage != 0 || first_page < 0 || count > info_.num_pages || first_page > info_.num_pages - count)
    return make_status(StatusCode::kOutOfRange, "{}: pages {} + {} bytes of {}", path_, first_page, pages.size(),
                       info_.num_pages);
  const auto read = [&](int64_t page, std::span<std::byte> out) -> Status {
    ENGRAM_ASSIGN_OR_RETURN(const size_t got, file_->read_at(page * kRowPageBytes, out));
    if (got == out.size()) return {};
    return data_loss("{}: file ends in page {}, wanted {} pages (it shrank while open)", path_,
                     page + static_cast<int64_t>(got / kPage), info_.num_pages);
  };
  // A failed read of many pages is repeated page by page, each once more.
  const bool whole = read(first_page, pages).ok();
  for (int64_t i = 0; i < count; ++i) {
    const auto page = pages.subspan(static_cast<size_t>(i) * kPage, kPage);
    if (whole && check_row_page(page, first_page + i, path_).ok()) continue;
    ENGRAM_RETURN_IF_ERROR(read(first_page + i, page));
    ENGRAM_RETURN_IF_ERROR(check_row_page(page, first_page + i, path_));
  }
  return {};
}

Status RowFileReader::read_rows(int table_index, int64_t first_row, int64_t count, std::span<std::byte> out) const {
  ENGRAM_CHECK(table_index >= 0 && table_index < static_cast<int>(info_.tables.size()), "table={}", table_index);
  const RowTable& table = info_.tables[static_cast<size_t>(table_index)];
  if (first_row < 0 || count < 0 || count > table.num_rows || first_row > table.num_rows - count)
    return make_status(StatusCode::kOutOfRange, "{}: rows {} + {} of layer {}, which has {}", path_, first_row, count,
                       table.layer_id, table.num_rows);
  if (out.size() != static_cast<uint64_t>(count) * static_cast<uint64_t>(table.row_bytes))
    return invalid_argument("{}: {} bytes for {} rows of {}", path_, out.size(), count, table.row_bytes);
  if (count == 0) return {};
  // A buffer of 1 MiB at most, or one row where that is more.
  const int64_t step = std::max<int64_t>(1, table.rows_per_page * 256);
  const int64_t end = first_row + count;
  const int64_t most_pages = table.rows_per_page > 0
                                 ? std::min<int64_t>(257, table.page_of(end - 1) - table.page_of(first_row) + 1)
                                 : table.pages_per_row;
  const auto pages = std::make_unique_for_overwrite<std::byte[]>(static_cast<size_t>(most_pages) * kPage);
  for (int64_t row = first_row; row < end;) {
    const int64_t stop = std::min(end, row + step);
    const int64_t page = table.page_of(row), last = table.page_of(stop - 1) + table.pages_per_row;
    const std::span<std::byte> bytes(pages.get(), static_cast<size_t>(last - page) * kPage);
    ENGRAM_RETURN_IF_ERROR(read_pages(page, bytes));
    unpack_rows(table, row, stop, bytes.data(), out.data() + (row - first_row) * table.row_bytes);
    row = stop;
  }
  return {};
}

}  // namespace engram
