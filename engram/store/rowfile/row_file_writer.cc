#include <algorithm>
#include <cstring>

#include "engram/store/rowfile/row_file.h"

namespace engram {
namespace {

constexpr size_t kPage = kRowPageBytes, kPayload = kRowPagePayload;
constexpr size_t kBufferPages = 256;
constexpr int64_t kSyncPages = 65536;  // a power cut costs at most the last 256 MiB

// The complete, undamaged pages at the start of a partial file, its header's included; 0 when the header is another.
Result<int64_t> count_good_pages(Env& env, const std::string& path, const std::string& header, int64_t num_pages) {
  ENGRAM_ASSIGN_OR_RETURN(auto file, env.new_random_access_file(path));
  std::vector<std::byte> buffer(std::max(kBufferPages * kPage, header.size()));
  ENGRAM_ASSIGN_OR_RETURN(size_t got, file->read_at(0, std::span(buffer).first(header.size())));
  if (got != header.size() || std::memcmp(buffer.data(), header.data(), got) != 0) return 0;
  int64_t page = static_cast<int64_t>(header.size() / kPage);
  while (page < num_pages) {
    ENGRAM_ASSIGN_OR_RETURN(got, file->read_at(page * kRowPageBytes, std::span(buffer).first(kBufferPages * kPage)));
    const size_t whole = got / kPage;
    for (size_t i = 0; i < whole; ++i, ++page) {
      if (page == num_pages || !check_row_page({buffer.data() + i * kPage, kPage}, page, path).ok()) return page;
    }
    if (whole < kBufferPages) break;
  }
  return page;
}

}  // namespace

struct RowFileWriter::Impl {
  Env& env;
  std::string path, partial_path;
  RowFileInfo info;
  std::unique_ptr<WritableFile> file;
  // Pages that are not in the file yet: whole ones, then the one being filled.
  std::vector<std::byte> buffer = std::vector<std::byte>(kBufferPages * kPage);
  size_t whole_pages = 0;
  size_t used = 0;          // payload of the page being filled
  int64_t page_number = 0;  // of that page
  int64_t synced_pages = 0;
  size_t table = 0;
  int64_t row = 0;
  Status error;

  const RowTable& current() const { return info.tables[table]; }

  std::byte* page() { return buffer.data() + whole_pages * kPage; }

  Status flush() {
    if (whole_pages == 0) return {};
    ENGRAM_RETURN_IF_ERROR(file->append(std::span(buffer).first(whole_pages * kPage)));
    whole_pages = 0;
    if (page_number - synced_pages < kSyncPages) return {};
    synced_pages = page_number;
    return file->sync();
  }

  Status end_page() {
    std::memset(page() + used, 0, kPayload - used);
    seal_row_page({page(), kPage}, page_number);
    used = 0;
    ++page_number;
    return ++whole_pages < kBufferPages ? Status() : flush();
  }

  Status append_row(std::span<const std::byte> bytes) {
    const RowTable& to = current();
    for (size_t done = 0; done < bytes.size();) {
      const size_t part = std::min(kPayload - used, bytes.size() - done);
      std::memcpy(page() + used, bytes.data() + done, part);
      used += part;
      done += part;
      if (to.rows_per_page == 0) ENGRAM_RETURN_IF_ERROR(end_page());
    }
    ++row;
    const bool table_ends = row == to.num_rows;
    if (to.rows_per_page > 0 && (table_ends || row % to.rows_per_page == 0)) ENGRAM_RETURN_IF_ERROR(end_page());
    if (table_ends) {
      ++table;
      row = 0;
    }
    return {};
  }

  // The place behind `pages` good pages. A row of several pages counts only when it is complete.
  int64_t continue_behind(int64_t pages) {
    for (table = 0; table < info.tables.size(); ++table) {
      const RowTable& to = current();
      if (pages >= to.first_page + to.num_pages) continue;
      const int64_t within = std::max<int64_t>(0, pages - to.first_page);
      row = to.rows_per_page > 0 ? within * to.rows_per_page : within / to.pages_per_row;
      return to.page_of(row);
    }
    row = 0;
    return info.num_pages;
  }

  Status start(bool resume) {
    const std::string header = info.header_bytes();
    int64_t good = 0;
    if (resume && env.file_exists(partial_path)) {
      ENGRAM_ASSIGN_OR_RETURN(good, count_good_pages(env, partial_path, header, info.num_pages));
    }
    if (good > 0) {
      page_number = continue_behind(good);
      synced_pages = page_number;
      ENGRAM_RETURN_IF_ERROR(env.truncate_file(partial_path, page_number * kRowPageBytes));
      ENGRAM_ASSIGN_OR_RETURN(file, env.new_appendable_file(partial_path));
      return {};
    }
    page_number = info.header_pages;
    ENGRAM_ASSIGN_OR_RETURN(file, env.new_writable_file(partial_path));
    return file->append(std::as_bytes(std::span(header)));
  }

  Status finish() {
    ENGRAM_RETURN_IF_ERROR(flush());
    ENGRAM_RETURN_IF_ERROR(file->sync());
    ENGRAM_RETURN_IF_ERROR(file->close());
    ENGRAM_RETURN_IF_ERROR(env.rename_file(partial_path, path));
    return env.sync_directory(parent_path(path));
  }
};

RowFileWriter::RowFileWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

// Pages that are complete are worth keeping; that they cannot be written is no news to anyone here.
RowFileWriter::~RowFileWriter() {
  if (impl_->file && impl_->error.ok()) (void)impl_->flush();
}

Result<std::unique_ptr<RowFileWriter>> RowFileWriter::create(Env& env, const std::string& path, const RowFileInfo& info,
                                                             bool resume) {
  ENGRAM_CHECK(info.num_pages > 0, "{}: info does not come from RowFileInfo::create()", path);
  std::unique_ptr<RowFileWriter> writer(
      new RowFileWriter(std::make_unique<Impl>(Impl{env, path, path + ".partial", info})));
  if (Status status = writer->impl_->start(resume); !status.ok()) {
    writer->impl_->error = status;
    return status;
  }
  return writer;
}

int RowFileWriter::next_table() const { return static_cast<int>(impl_->table); }
int64_t RowFileWriter::next_row() const { return impl_->row; }

Status RowFileWriter::append(std::span<const std::byte> rows) {
  Impl& impl = *impl_;
  ENGRAM_RETURN_IF_ERROR(impl.error);
  if (rows.empty()) return {};
  if (impl.table == impl.info.tables.size())
    return invalid_argument("{}: {} bytes after the last row", impl.path, rows.size());
  const RowTable& table = impl.current();
  const auto row_bytes = static_cast<size_t>(table.row_bytes);
  const auto missing = static_cast<uint64_t>(table.num_rows - impl.row);
  if (rows.size() % row_bytes != 0 || rows.size() / row_bytes > missing)
    return invalid_argument("{}: {} bytes for layer {}, wanted whole rows of {} bytes, at most {}", impl.path,
                            rows.size(), table.layer_id, row_bytes, missing);
  for (; !rows.empty() && impl.error.ok(); rows = rows.subspan(row_bytes))
    impl.error = impl.append_row(rows.first(row_bytes));
  return impl.error;
}

Status RowFileWriter::finish() {
  Impl& impl = *impl_;
  ENGRAM_RETURN_IF_ERROR(impl.error);
  if (impl.table < impl.info.tables.size())
    return make_status(StatusCode::kFailedPrecondition, "{}: layer {} has {} rows, wanted {}", impl.path,
                       impl.current().layer_id, impl.row, impl.current().num_rows);
  impl.error = impl.finish();
  ENGRAM_RETURN_IF_ERROR(impl.error);
  impl.file.reset();
  impl.error = make_status(StatusCode::kFailedPrecondition, "{}: the row file is finished", impl.path);
  return {};
}

}  // namespace engram
