// The machine's memory: how much is left, large regions of it, and whether a file's pages are in it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace engram::port {

// Zeroed memory from the system, on huge pages and spread over the NUMA nodes where it has them. Null where there is
// none; errno says why. Given back by unmap().
std::byte* map_zeroed(size_t bytes);
void unmap(std::byte* data, size_t bytes);
// Whether a mapped file's bytes, which begin on a page of the system, are in memory. True where the system cannot say.
bool is_in_memory(std::byte* pages, size_t bytes);
// As available_memory_bytes() of core/machine.h.
int64_t available_memory_bytes(const std::string& root);

}  // namespace engram::port
