// SHA-256 (FIPS 180-4): digests that files and vocabularies are matched by. Not for secrets.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace engram {

// One message, fed in pieces. Not thread-safe; copyable.
class Sha256 {
 public:
  Sha256();
  void update(const void* data, size_t size);
  void update(std::string_view text) { update(text.data(), text.size()); }
  // 64 lower-case hex digits of everything so far; more updates may follow.
  std::string hex() const;

 private:
  void compress(const unsigned char* block);

  std::array<uint32_t, 8> state_;
  std::array<unsigned char, 64> buffer_;  // the first total_ % 64 bytes wait for a full block
  uint64_t total_ = 0;
};

std::string sha256_hex(std::string_view bytes);

}  // namespace engram
