// Any bytes as the header of a row file: refused with a one-line reason, or every table lies inside the file and the
// header writes itself in the same bytes. Checksums are set right first: no mutation would get past them.
#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engram/store/rowfile/row_file.h"

namespace {

constexpr size_t kPage = engram::kRowPageBytes;

void check_info(const engram::RowFileInfo& info, std::span<const std::byte> header) {
  int64_t page = info.header_pages;
  for (const engram::RowTable& table : info.tables) {
    ENGRAM_CHECK(table.first_page == page && table.num_pages > 0, "layer {} at page {}", table.layer_id, page);
    const int64_t last = table.page_of(table.num_rows - 1);
    ENGRAM_CHECK(last >= page && last + table.pages_per_row == page + table.num_pages, "last page {}", last);
    const int64_t end = table.offset_of(table.num_rows - 1) + table.row_bytes;
    ENGRAM_CHECK(table.rows_per_page == 0 || end <= engram::kRowPagePayload, "a row ends at {}", end);
    page += table.num_pages;
  }
  ENGRAM_CHECK(page == info.num_pages, "{} pages, {} in the header", page, info.num_pages);
  const std::string bytes = info.header_bytes();
  const auto written = std::as_bytes(std::span(bytes));
  ENGRAM_CHECK(written.size() <= header.size() && std::equal(written.begin(), written.end(), header.begin()),
               "a header of {} bytes writes itself as another", header.size());
}

void check_file(std::span<const std::byte> header, int64_t file_bytes) {
  const auto info = engram::RowFileInfo::parse(header, file_bytes, "fuzz");
  if (info.ok()) return check_info(*info, header);
  const std::string& reason = info.status().message();
  ENGRAM_CHECK(!reason.empty() && reason.find('\n') == std::string::npos, "reason '{}'", reason);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> bytes = std::as_bytes(std::span(data, size));
  check_file(bytes, static_cast<int64_t>(size));
  std::vector<std::byte> pages(bytes.begin(), bytes.end());
  pages.resize((size + kPage - 1) / kPage * kPage);
  for (size_t page = 0; page < pages.size() / kPage; ++page)
    engram::seal_row_page(std::span(pages).subspan(page * kPage, kPage), static_cast<int64_t>(page));
  // The size that the header names: what is checked against it has other tests.
  uint64_t num_pages = 0;
  for (size_t i = 24; i-- > 16 && pages.size() >= kPage;) num_pages = num_pages << 8 | static_cast<uint8_t>(pages[i]);
  check_file(pages, static_cast<int64_t>(std::min<uint64_t>(num_pages, uint64_t{1} << 50) * kPage));
  return 0;
}
