// GGUF files, versions 2 and 3, little-endian: keys with typed values, then tensors. A large file comes in parts, named
// NAME-00001-of-0000N.gguf, of which the first has the keys; they are one file here.
//
// Hostile input: counts, lengths, types, offsets and sizes are checked against the file before use; nothing is copied
// while parsing, so a small file cannot ask for much memory. Format: ggml's docs/gguf.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram {

// Type numbers are the file's: 0..7 u8 i8 u16 i16 u32 i32 f32 bool, 8 string, 9 array, 10..12 u64 i64 f64.
struct GgufValue {
  uint32_t type = 0;  // of the value, or of an array's elements
  bool is_array = false;
  uint64_t count = 1;                // elements
  std::span<const std::byte> bytes;  // of all elements; each string after a u64 length
};

struct GgufTensor {
  std::vector<int64_t> shape;  // ggml's order: the row width first
  uint32_t type = 0;
  // From the tensor's first byte to the end of the file; how many bytes are the tensor's follows from its type.
  std::span<const std::byte> bytes;
};

// Immutable after open(); threads may share one. Move-only.
class GgufFile {
 public:
  // The whole file, whichever of its parts is named. kNotFound, also of a part; kDataLoss: what, got, wanted.
  static Result<GgufFile> open(Env& env, const std::string& path);
  // Parts in their order. kDataLoss: one that is missing, in another's place, or of another model.
  static Result<GgufFile> join(std::vector<GgufFile> parts);
  // The same checks over bytes in memory, which must outlive the object.
  static Result<GgufFile> parse(std::span<const std::byte> bytes, const std::string& name);

  const std::string& path() const { return path_; }
  // For after a tensor's bytes were used: kDataLoss where the file was cut since it was opened.
  Status readable() const;
  const std::map<std::string, GgufValue, std::less<>>& values() const { return values_; }
  const std::map<std::string, GgufTensor, std::less<>>& tensors() const { return tensors_; }

  bool has(std::string_view key) const { return values_.contains(key); }
  // Typed values. kInvalidArgument names file and key: missing, another type, an integer outside 63 bits, or more than
  // `most` elements. integers() takes a single integer as a list of one.
  Result<std::vector<int64_t>> integers(std::string_view key, uint64_t most) const;
  Result<int64_t> integer(std::string_view key) const;
  // integers() or floats of either size, as double.
  Result<std::vector<double>> numbers(std::string_view key, uint64_t most) const;
  Result<double> number(std::string_view key) const;
  Result<bool> boolean(std::string_view key) const;
  Result<std::string> string(std::string_view key) const;
  Result<std::vector<std::string>> strings(std::string_view key, uint64_t most) const;

 private:
  static Result<GgufFile> open_part(Env& env, const std::string& path);
  Result<const GgufValue*> find(std::string_view key) const;

  std::string path_;
  std::vector<std::unique_ptr<MappedFile>> files_;  // one for each part; none of bytes in memory
  std::map<std::string, GgufValue, std::less<>> values_;
  std::map<std::string, GgufTensor, std::less<>> tensors_;
};

}  // namespace engram
