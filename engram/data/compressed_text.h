// Compressed text: gzip (.gz) and Zstandard (.zst), taken apart into memory.
#pragma once
#include <span>
#include <string>
#include <string_view>

#include "engram/core/status.h"

namespace engram {

bool is_compressed_name(std::string_view path);                      // ends in .gz or .zst
std::string_view without_compression_ending(std::string_view path);  // "a.jsonl.gz" -> "a.jsonl"

// All frames (members) of a file, one after the other. `name` is the file's and decides by its ending.
// kInvalidArgument: other bytes than the ending says; kDataLoss: damaged or cut; kResourceExhausted: more text than
// `most_bytes`.
Result<std::string> decompress(std::span<const std::byte> bytes, const std::string& name, size_t most_bytes);

}  // namespace engram
