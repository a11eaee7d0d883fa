#include "engram/port/reads.h"

#include <fcntl.h>

#include <cerrno>

namespace engram::port {

int open_for_reading(const char* path, bool /*direct: through the page cache all the same*/) {
  int fd;
  do {
    fd = ::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return -errno;
  (void)::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) & ~O_NONBLOCK);
  return fd;
}

int64_t read_resident(int /*fd*/, int64_t /*offset*/, std::span<std::byte> /*out*/) { return -EAGAIN; }

std::unique_ptr<ReadQueue> open_read_ring(const ReadSlots& /*slots*/, int& error) {
  error = -ENOSYS;
  return nullptr;
}

}  // namespace engram::port
