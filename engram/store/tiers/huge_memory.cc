#include "engram/store/tiers/huge_memory.h"

#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <string>
#include <system_error>
#include <utility>

#include "engram/core/machine.h"

namespace engram {
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

Result<HugeMemory> HugeMemory::allocate(size_t bytes, const char* what) {
  if (const auto available = static_cast<size_t>(available_memory_bytes()); bytes > available)
    return make_status(StatusCode::kResourceExhausted,
                       "{}: needs {:.1f} GiB of memory, {:.1f} GiB are available; keep the rows on a drive (nvme:)",
                       what, static_cast<double>(bytes) / (1 << 30), static_cast<double>(available) / (1 << 30));
  HugeMemory memory;
  memory.size_ = bytes;
  if (bytes == 0) return memory;
  void* data =
      ::mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED)
    return make_status(StatusCode::kResourceExhausted, "{}: cannot map {} bytes: {}", what, bytes,
                       std::generic_category().message(errno));
  // Start on a huge page: the ends that stick out are given back.
  const auto address = reinterpret_cast<uintptr_t>(data);
  const size_t before = (kHugePage - address % kHugePage) % kHugePage;
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE)), used = (bytes + page - 1) / page * page;
  memory.data_ = static_cast<std::byte*>(data) + before;
  if (before > 0) ::munmap(data, before);
  if (before + used < bytes + kHugePage) ::munmap(memory.data_ + used, bytes + kHugePage - before - used);
  // Both are hints: without them the memory is slower, not wrong.
  (void)::madvise(memory.data_, used, MADV_HUGEPAGE);
  if (const unsigned long mask = node_mask(); (mask & (mask - 1)) != 0)
    (void)::syscall(SYS_mbind, memory.data_, used, MPOL_INTERLEAVE, &mask, sizeof mask * 8 + 1, 0);
  return memory;
}

HugeMemory::HugeMemory(HugeMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
HugeMemory& HugeMemory::operator=(HugeMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}
HugeMemory::~HugeMemory() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

}  // namespace engram
