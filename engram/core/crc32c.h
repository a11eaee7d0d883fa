// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78): the checksum of every file format of this project.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace engram {

// The checksum of the bytes that gave `crc` followed by `bytes`; start from 0. Uses the processor's instruction
// where there is one. Any thread.
uint32_t extend_crc32c(uint32_t crc, std::span<const std::byte> bytes);
// The table-driven version that extend_crc32c() is tested against, and falls back to.
uint32_t extend_crc32c_plain(uint32_t crc, std::span<const std::byte> bytes);

inline uint32_t crc32c(std::span<const std::byte> bytes) { return extend_crc32c(0, bytes); }

}  // namespace engram
