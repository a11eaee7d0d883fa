// HugeMemory: anonymous zeroed memory on huge pages, spread over the machine's NUMA nodes where there are several.
//
// Not in /dev/shm, so no container limit on shared memory applies. A page is placed on the node that first touches it:
// touch a large region from several threads.
#pragma once
#include <cstddef>
#include <span>

#include "engram/core/status.h"

namespace engram {

// Move-only; unmapped on destruction.
class HugeMemory {
 public:
  HugeMemory() = default;
  // kResourceExhausted: more than the memory that is available now; `what` names it for the message.
  static Result<HugeMemory> allocate(size_t bytes, const char* what);
  HugeMemory(HugeMemory&& other) noexcept;
  HugeMemory& operator=(HugeMemory&& other) noexcept;
  ~HugeMemory();

  std::span<std::byte> bytes() const { return {data_, size_}; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace engram
