#include "engram/port/memory.h"

#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>
#include <fstream>

namespace engram::port {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

// The nodes that have memory, as a bit mask; 1 where the system does not say. "0-1,4" is {0, 1, 4}.
unsigned long node_mask() {
  std::ifstream file("/sys/devices/system/node/has_memory");
  std::string range;
  unsigned long mask = 0;
  while (std::getline(file, range, ',')) {
    const char* end = range.data() + range.size();
    unsigned first = 0, last = 0;
    auto parsed = std::from_chars(range.data(), end, first);
    last = first;
    if (parsed.ec == std::errc() && parsed.ptr != end && *parsed.ptr == '-') std::from_chars(parsed.ptr + 1, end, last);
    for (unsigned node = first; node <= last && node < 64; ++node) mask |= 1ul << node;
  }
  return mask == 0 ? 1 : mask;
}

}  // namespace

std::byte* map_zeroed(size_t bytes) {
  void* map =
      ::mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) return nullptr;
  // Start on a huge page: the ends that stick out are given back.
  const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(map) % kHugePage) % kHugePage;
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE)), used = (bytes + page - 1) / page * page;
  std::byte* data = static_cast<std::byte*>(map) + before;
  if (before > 0) ::munmap(map, before);
  if (before + used < bytes + kHugePage) ::munmap(data + used, bytes + kHugePage - before - used);
  // Both are hints: without them the memory is slower, not wrong.
  (void)::madvise(data, used, MADV_HUGEPAGE);
  if (const unsigned long mask = node_mask(); (mask & (mask - 1)) != 0)
    (void)::syscall(SYS_mbind, data, used, MPOL_INTERLEAVE, &mask, sizeof mask * 8 + 1, 0);
  return data;
}

void unmap(std::byte* data, size_t bytes) { ::munmap(data, bytes); }

bool is_in_memory(std::byte* pages, size_t bytes) {
  static const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  unsigned char resident = 0;
  for (size_t at = 0; at < bytes; at += page) {
    if (::mincore(pages + at, 1, &resident) != 0 || (resident & 1) == 0) return false;
  }
  return true;
}

}  // namespace engram::port
