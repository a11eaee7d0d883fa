#include "engram/store/tiers/huge_memory.h"

#include <cerrno>
#include <system_error>
#include <utility>

#include "engram/core/machine.h"
#include "engram/port/memory.h"

namespace engram {
Result<HugeMemory> HugeMemory::allocate(size_t bytes, const char* what) {
  if (const auto available = static_cast<size_t>(available_memory_bytes()); bytes > available)
    return make_status(StatusCode::kResourceExhausted,
                       "{}: needs {:.1f} GiB of memory, {:.1f} GiB are available; keep the rows on a drive (nvme:)",
                       what, static_cast<double>(bytes) / (1 << 30), static_cast<double>(available) / (1 << 30));
  HugeMemory memory;
  if (bytes > 0 && (memory.data_ = port::map_zeroed(bytes)) == nullptr)
    return make_status(StatusCode::kResourceExhausted, "{}: cannot map {} bytes: {}", what, bytes,
                       std::generic_category().message(errno));
  memory.size_ = bytes;
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
  if (data_ != nullptr) port::unmap(data_, size_);
}

}  // namespace engram
