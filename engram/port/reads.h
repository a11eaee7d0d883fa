// Reading files beyond what POSIX has: past the system's page cache, only from it, and many reads in flight.
//
// Results are bytes read, or -errno.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace engram::port {

// A descriptor for reading, or -errno. Past the page cache if `direct` and the system has a way to
// (-EINVAL: the file system has none). Opening a pipe does not wait for its other end.
int open_for_reading(const char* path, bool direct);
// What the page cache holds of these bytes, without waiting for a drive. -EAGAIN: not there, or the system cannot say.
int64_t read_resident(int fd, int64_t offset, std::span<std::byte> out);

struct ReadDone {
  int slot = 0;
  int64_t result = 0;
};

// Fills buffers of one size, the slots, from one file; each slot holds one read at a time. start() and wait() belong to
// one thread, wake() to any. Destroyed with no read in flight, before its file and buffers.
class ReadQueue {
 public:
  virtual ~ReadQueue() = default;
  virtual const char* name() const = 0;  // "io_uring", "threads"
  // Starts a read, at the latest with the next wait(). 0, or -EBUSY: more reads than slots.
  virtual int start(int slot, int64_t offset) = 0;
  // Waits until a read has ended or wake() was called, and appends the reads that have ended, in any order. 0 or
  // -errno.
  virtual int wait(std::vector<ReadDone>& done) = 0;
  // Lets the current wait() return, or the next one.
  virtual void wake() = 0;
};

struct ReadSlots {
  int fd = -1;
  std::span<std::byte> buffers;  // `count` of them, one behind the other
  int count = 1;
  std::span<std::byte> operator[](int slot) const {
    const size_t size = buffers.size() / static_cast<size_t>(count);
    return buffers.subspan(static_cast<size_t>(slot) * size, size);
  }
};
// One ring shared with the kernel. Null, and -errno in `error`, where the system has or allows none.
std::unique_ptr<ReadQueue> open_read_ring(const ReadSlots& slots, int& error);
// A pool of threads that each wait in pread. Throws std::system_error where the system refuses a thread.
std::unique_ptr<ReadQueue> open_read_threads(const ReadSlots& slots);

}  // namespace engram::port
