#include "engram/port/reads.h"

#include <fcntl.h>
#include <liburing.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>

namespace engram::port {
namespace {

// One ring; file and buffers registered, so that the kernel does not look them up for each read. A read of an eventfd
// stays in the ring all the time: wake() ends it.
class Ring final : public ReadQueue {
 public:
  explicit Ring(const ReadSlots& slots) : slots_(slots) {}
  ~Ring() override {
    if (has_ring_) ::io_uring_queue_exit(&ring_);
    if (wake_fd_ >= 0) ::close(wake_fd_);
  }

  int init() {
    wake_fd_ = ::eventfd(0, EFD_CLOEXEC);
    if (wake_fd_ < 0) return -errno;
    if (const int error = init_ring(); error < 0) return error;
    if (const int error = ::io_uring_register_files(&ring_, &slots_.fd, 1); error < 0) return error;
    // Registered buffers are locked memory; where the limit is too low, plain ones do.
    const iovec all{slots_.buffers.data(), slots_.buffers.size()};
    has_buffers_ = ::io_uring_register_buffers(&ring_, &all, 1) == 0;
    return listen();
  }

  const char* name() const override { return "io_uring"; }

  int start(int slot, int64_t offset) override {
    io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
    if (entry == nullptr) return -EBUSY;
    const std::span<std::byte> out = slots_[slot];
    const auto size = static_cast<unsigned>(out.size());
    if (has_buffers_)
      ::io_uring_prep_read_fixed(entry, 0, out.data(), size, static_cast<uint64_t>(offset), 0);
    else
      ::io_uring_prep_read(entry, 0, out.data(), size, static_cast<uint64_t>(offset));
    ::io_uring_sqe_set_flags(entry, IOSQE_FIXED_FILE);
    ::io_uring_sqe_set_data64(entry, static_cast<uint64_t>(slot));
    return 0;
  }

  int wait(std::vector<ReadDone>& done) override {
    if (is_disabled_) {
      // liburing 2.3 declares io_uring_enable_rings() and does not export it.
      if (::syscall(SYS_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) != 0) return -errno;
      is_disabled_ = false;
    }
    int error;
    do {
      error = ::io_uring_submit_and_wait(&ring_, 1);
    } while (error == -EINTR || error == -EAGAIN || error == -EBUSY);
    if (error < 0) return error;
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
    return woken ? listen() : 0;
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
    const unsigned entries = static_cast<unsigned>(slots_.count) + 1;
    int error = ::io_uring_queue_init(entries, &ring_, kOwned);
    is_disabled_ = error == 0;
    if (error == -EINVAL) error = ::io_uring_queue_init(entries, &ring_, 0);
    has_ring_ = error == 0;
    return error;
  }
  int listen() {
    io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
    if (entry == nullptr) return -EBUSY;
    ::io_uring_prep_read(entry, wake_fd_, &wakes_, sizeof wakes_, 0);
    ::io_uring_sqe_set_data64(entry, kWake);
    return 0;
  }

  const ReadSlots slots_;
  io_uring ring_{};
  bool has_ring_ = false, is_disabled_ = false, has_buffers_ = false;
  int wake_fd_ = -1;
  uint64_t wakes_ = 0;
};

}  // namespace

int open_for_reading(const char* path, bool direct) {
  int fd;
  do {
    fd = ::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | (direct ? O_DIRECT : 0));
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return -errno;
  (void)::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) & ~O_NONBLOCK);   // io_uring would not wait for the drive
  if (!direct) (void)::posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);  // a hint: no read-ahead
  return fd;
}

int64_t read_resident(int fd, int64_t offset, std::span<std::byte> out) {
  const iovec part{out.data(), out.size()};
  ssize_t got;
  do {
    got = ::preadv2(fd, &part, 1, offset, RWF_NOWAIT);
  } while (got < 0 && errno == EINTR);
  return got < 0 ? -errno : got;
}

std::unique_ptr<ReadQueue> open_read_ring(const ReadSlots& slots, int& error) {
  auto ring = std::make_unique<Ring>(slots);
  error = ring->init();
  if (error < 0) ring.reset();
  return ring;
}

}  // namespace engram::port
