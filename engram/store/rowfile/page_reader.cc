#include "engram/store/rowfile/page_reader.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <system_error>

#include "engram/core/exceptions.h"
#include "engram/store/rowfile/row_file.h"

namespace engram {
namespace {

constexpr size_t kPage = kRowPageBytes;
// Beyond 64 threads, context switches cost more than parallel reads gain.
constexpr int kMaxThreads = 64;

Status system_error(StatusCode code, const char* what, const std::string& path, int error) {
  return make_status(code, "cannot {} '{}': {}", what, path, std::generic_category().message(error));
}

// The descriptor under both readers.
class PageFile final : public RandomAccessFile {
 public:
  PageFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) { (void)::fstat(fd_, &opened_); }
  ~PageFile() override { ::close(fd_); }
  PageFile(const PageFile&) = delete;
  PageFile& operator=(const PageFile&) = delete;

  int fd() const { return fd_; }

  Result<size_t> read_at(int64_t offset, std::span<std::byte> out) const override {
    size_t length = 0;
    while (length < out.size()) {
      const ssize_t got = ::pread(fd_, out.data() + length, out.size() - length, offset + static_cast<int64_t>(length));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return system_error(StatusCode::kDataLoss, "read", path_, errno);
      if (got == 0) break;
      length += static_cast<size_t>(got);
      if (length % kPage != 0) break;  // the file's end: O_DIRECT cannot go on from here
    }
    return length;
  }
  bool is_regular() const { return S_ISREG(opened_.st_mode); }
  bool has_changed() const {
    struct stat now;
    return ::fstat(fd_, &now) != 0 || now.st_size != opened_.st_size || now.st_mtim.tv_sec != opened_.st_mtim.tv_sec ||
           now.st_mtim.tv_nsec != opened_.st_mtim.tv_nsec;
  }
  Result<int64_t> size() const override {
    struct stat info;
    if (::fstat(fd_, &info) != 0) return system_error(StatusCode::kInternal, "stat", path_, errno);
    return static_cast<int64_t>(info.st_size);
  }

 private:
  const int fd_;
  const std::string path_;
  struct stat opened_ {};
};

class SlotBuffers {
 public:
  explicit SlotBuffers(int depth)
      : data_(static_cast<std::byte*>(std::aligned_alloc(kPage, static_cast<size_t>(depth) * kPage)), &std::free) {
    ENGRAM_CHECK(data_ != nullptr, "out of memory for {} pages", depth);
  }
  std::span<std::byte> operator[](int slot) const { return {data_.get() + static_cast<size_t>(slot) * kPage, kPage}; }

 private:
  std::unique_ptr<std::byte, void (*)(void*)> data_;
};

class FilePageReader final : public PageReader {
 public:
  FilePageReader(std::unique_ptr<PageFile> file, int depth) : file_(std::move(file)), buffers_(depth), depth_(depth) {}
  // -errno where the system has or allows no ring.
  int open_ring() {
    int error = 0;
    reads_ = port::open_read_ring(slots(), error);
    return error;
  }
  Status open_threads() {
    depth_ = std::min(depth_, kMaxThreads);
    return catch_exceptions([this] {
      reads_ = port::open_read_threads(slots());
      return Status();
    });
  }

  const char* name() const override { return reads_->name(); }
  int depth() const override { return depth_; }
  std::span<std::byte> buffer(int slot) override { return buffers_[slot]; }
  void start(int slot, int64_t page) override {
    ENGRAM_CHECK(reads_->start(slot, page * kRowPageBytes) == 0, "more reads than the {} slots", depth_);
  }
  void wait(std::vector<PageDone>& done) override {
    const int error = reads_->wait(done);
    ENGRAM_CHECK(error == 0, "waiting for reads of the drive: {}", std::generic_category().message(-error));
  }
  void wake() override { reads_->wake(); }
  int64_t read_resident(int64_t page, int64_t offset, std::span<std::byte> out) const override {
    return port::read_resident(file_->fd(), page * kRowPageBytes + offset, out);
  }
  bool has_changed() const override { return file_->has_changed(); }
  const RandomAccessFile& file() const override { return *file_; }

 private:
  port::ReadSlots slots() const {
    return {file_->fd(), {buffers_[0].data(), static_cast<size_t>(depth_) * kPage}, depth_};
  }

  const std::unique_ptr<PageFile> file_;
  const SlotBuffers buffers_;
  int depth_;
  std::unique_ptr<port::ReadQueue> reads_;  // goes first
};

Result<std::unique_ptr<PageFile>> open_page_file(const std::string& path, bool direct) {
  const int fd = port::open_for_reading(path.c_str(), direct);
  if (fd >= 0) {
    auto file = std::make_unique<PageFile>(fd, path);
    if (!file->is_regular()) return data_loss("cannot read '{}': wanted a regular file", path);
    return file;
  }
  if (fd == -EINVAL && direct)
    return invalid_argument(
        "cannot open '{}' past the page cache (O_DIRECT): its file system does not allow it; "
        "open it with direct=0",
        path);
  const StatusCode code = fd == -ENOENT                   ? StatusCode::kNotFound
                          : fd == -EACCES || fd == -EPERM ? StatusCode::kPermissionDenied
                                                          : StatusCode::kInternal;
  return system_error(code, "open", path, -fd);
}

}  // namespace

Result<std::unique_ptr<PageReader>> open_page_reader(const std::string& path, const PageReaderOptions& options) {
  if (options.depth < 1 || options.depth > kMaxReadDepth)
    return invalid_argument("depth is {}, wanted 1 .. {}", options.depth, kMaxReadDepth);
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<PageFile> file, open_page_file(path, options.direct));
  auto reader = std::make_unique<FilePageReader>(std::move(file), options.depth);
  int error = -ENOSYS;
  if (options.kind != PageReaderKind::kThreads) error = reader->open_ring();
  if (error != 0 && options.kind == PageReaderKind::kUring)
    return system_error(StatusCode::kUnimplemented, "use io_uring for", path, -error);
  if (error != 0) ENGRAM_RETURN_IF_ERROR(reader->open_threads().with_context(path));
  return options.wrap ? options.wrap(std::move(reader)) : std::move(reader);
}

}  // namespace engram
