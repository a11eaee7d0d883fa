#include "engram/store/rowfile/page_reader.h"

#include <fcntl.h>
#include <liburing.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>

#include "engram/core/exceptions.h"
#include "engram/store/rowfile/row_file.h"

namespace engram {
namespace {

constexpr size_t kPage = kRowPageBytes;

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

  // One pread, repeated only where a signal interrupts it.
  int64_t read_once(int64_t offset, std::span<std::byte> out, int flags = 0) const {
    const iovec part{out.data(), out.size()};
    ssize_t got;
    do {
      got = ::preadv2(fd_, &part, 1, offset, flags);
    } while (got < 0 && errno == EINTR);
    return got < 0 ? -errno : got;
  }

  Result<size_t> read_at(int64_t offset, std::span<std::byte> out) const override {
    size_t length = 0;
    while (length < out.size()) {
      const int64_t got = read_once(offset + static_cast<int64_t>(length), out.subspan(length));
      if (got < 0) return system_error(StatusCode::kDataLoss, "read", path_, static_cast<int>(-got));
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

class BasePageReader : public PageReader {
 public:
  BasePageReader(std::unique_ptr<PageFile> file, int depth) : file_(std::move(file)), depth_(depth), buffers_(depth) {}
  int depth() const override { return depth_; }
  std::span<std::byte> buffer(int slot) override { return buffers_[slot]; }
  int64_t read_resident(int64_t page, int64_t offset, std::span<std::byte> out) const override {
    return file_->read_once(page * kRowPageBytes + offset, out, RWF_NOWAIT);
  }
  bool has_changed() const override { return file_->has_changed(); }
  const RandomAccessFile& file() const override { return *file_; }

 protected:
  const std::unique_ptr<PageFile> file_;
  const int depth_;
  const SlotBuffers buffers_;
};

// One ring; file and buffers registered, so that the kernel does not look them up for each read. A read of an eventfd
// stays in the ring all the time: wake() ends it.
class UringPageReader final : public BasePageReader {
 public:
  using BasePageReader::BasePageReader;

  // -errno where the system has or allows no io_uring.
  int init() {
    wake_fd_ = ::eventfd(0, EFD_CLOEXEC);
    if (wake_fd_ < 0) return -errno;
    if (const int error = init_ring(); error < 0) return error;
    const int fd = file_->fd();
    if (const int error = ::io_uring_register_files(&ring_, &fd, 1); error < 0) return error;
    // Registered buffers are locked memory; where the limit is too low, plain ones do.
    const iovec all{buffers_[0].data(), static_cast<size_t>(depth_) * kPage};
    has_buffers_ = ::io_uring_register_buffers(&ring_, &all, 1) == 0;
    listen();
    return 0;
  }
  ~UringPageReader() override {
    if (has_ring_) ::io_uring_queue_exit(&ring_);
    if (wake_fd_ >= 0) ::close(wake_fd_);
  }

  const char* name() const override { return "io_uring"; }

  void start(int slot, int64_t page) override {
    io_uring_sqe* entry = next_entry();
    const std::span<std::byte> out = buffers_[slot];
    const auto offset = static_cast<uint64_t>(page) * kPage;
    if (has_buffers_)
      ::io_uring_prep_read_fixed(entry, 0, out.data(), kPage, offset, 0);
    else
      ::io_uring_prep_read(entry, 0, out.data(), kPage, offset);
    ::io_uring_sqe_set_flags(entry, IOSQE_FIXED_FILE);
    ::io_uring_sqe_set_data64(entry, static_cast<uint64_t>(slot));
  }

  void wait(std::vector<PageDone>& done) override {
    if (is_disabled_) enable();
    int error;
    do {
      error = ::io_uring_submit_and_wait(&ring_, 1);
    } while (error == -EINTR || error == -EAGAIN || error == -EBUSY);
    ENGRAM_CHECK(error >= 0, "io_uring_submit_and_wait: {}", std::generic_category().message(-error));
    unsigned head, seen = 0;
    bool woken = false;
    io_uring_cqe* entry;
    io_uring_for_each_cqe(&ring_, head, entry) {
      ++seen;
      if (entry->user_data == kWake)
        woken = true;
      else
        done.push_back({static_cast<int>(entry->user_data), entry->res});
    }
    ::io_uring_cq_advance(&ring_, seen);
    if (woken) listen();
  }

  void wake() override {
    const uint64_t one = 1;
    // Fails only when 2^64 - 2 wakes are unread.
    [[maybe_unused]] const ssize_t written = ::write(wake_fd_, &one, sizeof one);
  }

 private:
  static constexpr uint64_t kWake = UINT64_MAX;

  // From Linux 6.1 on a ring of one thread's own: reads that end do not interrupt it, they wait until it looks. The
  // ring starts disabled, because it belongs to the thread that enables it and not to the one that opens the file.
  int init_ring() {
    constexpr unsigned kOwned = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_R_DISABLED;
    const unsigned entries = static_cast<unsigned>(depth_) + 1;
    int error = ::io_uring_queue_init(entries, &ring_, kOwned);
    is_disabled_ = error == 0;
    if (error == -EINVAL) error = ::io_uring_queue_init(entries, &ring_, 0);
    has_ring_ = error == 0;
    return error;
  }
  void enable() {
    // liburing 2.3 declares io_uring_enable_rings() and does not export it.
    const long result = ::syscall(SYS_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
    ENGRAM_CHECK(result == 0, "enabling the ring: {}", std::generic_category().message(errno));
    is_disabled_ = false;
  }

  io_uring_sqe* next_entry() {
    io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
    ENGRAM_CHECK(entry != nullptr, "more reads than the {} slots", depth_);
    return entry;
  }
  void listen() {
    io_uring_sqe* entry = next_entry();
    ::io_uring_prep_read(entry, wake_fd_, &wakes_, sizeof wakes_, 0);
    ::io_uring_sqe_set_data64(entry, kWake);
  }

  io_uring ring_{};
  bool has_ring_ = false, is_disabled_ = false, has_buffers_ = false;
  int wake_fd_ = -1;
  uint64_t wakes_ = 0;
};

// A pool of threads that each wait in pread.
class ThreadPageReader final : public BasePageReader {
 public:
  using BasePageReader::BasePageReader;
  ~ThreadPageReader() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    work_ready_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  const char* name() const override { return "threads"; }

  Status start_threads() {
    return catch_exceptions([this] {
      for (int i = 0; i < depth(); ++i) threads_.emplace_back([this] { work(); });
      return Status();
    });
  }
  void start(int slot, int64_t page) override {
    {
      std::lock_guard lock(mutex_);
      queue_.push_back({slot, page});
    }
    work_ready_.notify_one();
  }
  void wait(std::vector<PageDone>& done) override {
    std::unique_lock lock(mutex_);
    done_ready_.wait(lock, [&] { return woken_ || !done_.empty(); });
    woken_ = false;
    done.insert(done.end(), done_.begin(), done_.end());
    done_.clear();
  }
  void wake() override {
    {
      std::lock_guard lock(mutex_);
      woken_ = true;
    }
    done_ready_.notify_one();
  }

 private:
  struct Job {
    int slot;
    int64_t page;
  };
  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      work_ready_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      const Job job = queue_.front();
      queue_.pop_front();
      lock.unlock();
      const int64_t result = file_->read_once(job.page * kRowPageBytes, buffers_[job.slot]);
      lock.lock();
      done_.push_back({job.slot, result});
      done_ready_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable work_ready_, done_ready_;
  std::deque<Job> queue_;
  std::vector<PageDone> done_;
  bool woken_ = false, stopping_ = false;
  std::vector<std::thread> threads_;
};

Result<std::unique_ptr<PageFile>> open_page_file(const std::string& path, bool direct) {
  int fd;
  do {
    fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | (direct ? O_DIRECT : 0));  // no pipe keeps us
  } while (fd < 0 && errno == EINTR);
  if (fd >= 0) {
    auto file = std::make_unique<PageFile>(fd, path);
    if (!file->is_regular()) return data_loss("cannot read '{}': wanted a regular file", path);
    (void)::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) & ~O_NONBLOCK);  // io_uring would not wait for the drive
    return file;
  }
  if (errno == EINVAL && direct)
    return invalid_argument(
        "cannot open '{}' past the page cache (O_DIRECT): its file system does not allow it; "
        "open it with direct=0",
        path);
  const StatusCode code = errno == ENOENT                     ? StatusCode::kNotFound
                          : errno == EACCES || errno == EPERM ? StatusCode::kPermissionDenied
                                                              : StatusCode::kInternal;
  return system_error(code, "open", path, errno);
}

// Beyond 64 threads, context switches cost more than parallel reads gain.
constexpr int kMaxThreads = 64;

}  // namespace

Result<std::unique_ptr<PageReader>> open_page_reader(const std::string& path, const PageReaderOptions& options) {
  if (options.depth < 1 || options.depth > kMaxReadDepth)
    return invalid_argument("depth is {}, wanted 1 .. {}", options.depth, kMaxReadDepth);
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<PageFile> file, open_page_file(path, options.direct));
  if (!options.direct) (void)::posix_fadvise(file->fd(), 0, 0, POSIX_FADV_RANDOM);  // a hint: no read-ahead
  std::unique_ptr<PageReader> reader;
  if (options.kind != PageReaderKind::kThreads) {
    auto uring = std::make_unique<UringPageReader>(std::move(file), options.depth);
    const int error = uring->init();
    if (error == 0) {
      reader = std::move(uring);
    } else if (options.kind == PageReaderKind::kUring) {
      return system_error(StatusCode::kUnimplemented, "use io_uring for", path, -error);
    } else {
      uring.reset();
      ENGRAM_ASSIGN_OR_RETURN(file, open_page_file(path, options.direct));
    }
  }
  if (!reader) {
    auto threads = std::make_unique<ThreadPageReader>(std::move(file), std::min(options.depth, kMaxThreads));
    ENGRAM_RETURN_IF_ERROR(threads->start_threads().with_context(path));
    reader = std::move(threads);
  }
  return options.wrap ? options.wrap(std::move(reader)) : std::move(reader);
}

}  // namespace engram
