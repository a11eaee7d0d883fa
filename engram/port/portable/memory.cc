#include "engram/port/memory.h"

#include <sys/mman.h>
#include <unistd.h>

namespace engram::port {

std::byte* map_zeroed(size_t bytes) {
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return data == MAP_FAILED ? nullptr : static_cast<std::byte*>(data);
}

void unmap(std::byte* data, size_t bytes) { ::munmap(data, bytes); }

bool is_in_memory(std::byte* /*pages*/, size_t /*bytes*/) { return true; }

// All of the machine's: what others use of it is not known.
int64_t available_memory_bytes(const std::string& /*root*/) {
  return int64_t{::sysconf(_SC_PHYS_PAGES)} * ::sysconf(_SC_PAGESIZE);
}

}  // namespace engram::port
