// CRC-32C against the published values of RFC 3720 (B.4) and a bit-by-bit computation.
#include "engram/core/crc32c.h"

#include <gtest/gtest.h>

#include <random>
#include <string_view>
#include <vector>

namespace engram {
namespace {

uint32_t bit_by_bit(std::span<const std::byte> bytes) {
  uint32_t crc = 0xFFFFFFFFu;
  for (std::byte byte : bytes) {
    crc ^= static_cast<uint8_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78u : 0u);
  }
  return ~crc;
}

std::span<const std::byte> as_bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST(Crc32c, PublishedValues) {
  EXPECT_EQ(crc32c({}), 0u);
  EXPECT_EQ(crc32c(as_bytes("123456789")), 0xE3069283u);
  EXPECT_EQ(crc32c(std::vector<std::byte>(32, std::byte{0})), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::vector<std::byte>(32, std::byte{0xFF})), 0x62A8AB43u);
  std::vector<std::byte> ascending(32);
  for (size_t i = 0; i < 32; ++i) ascending[i] = static_cast<std::byte>(i);
  EXPECT_EQ(crc32c(ascending), 0x46DD794Eu);
}

TEST(Crc32c, AnyLengthAlignmentAndSplit) {
  std::mt19937 random(1);
  std::vector<std::byte> bytes(300);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  for (size_t begin = 0; begin < 9; ++begin) {
    for (size_t size = 0; begin + size <= bytes.size(); size += 7) {
      const auto part = std::span<const std::byte>(bytes).subspan(begin, size);
      const uint32_t wanted = bit_by_bit(part);
      EXPECT_EQ(crc32c(part), wanted);
      EXPECT_EQ(extend_crc32c_plain(0, part), wanted);
      EXPECT_EQ(extend_crc32c(crc32c(part.first(size / 3)), part.subspan(size / 3)), wanted);
    }
  }
}

// Long enough for the lanes that go side by side, at their borders, and for several rounds of them.
TEST(Crc32c, LongInputs) {
  std::mt19937 random(2);
  std::vector<std::byte> bytes(20000);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  for (size_t size : {4079, 4080, 4081, 4088, 4092, 4096, 8159, 8160, 8161, 12250, 19990}) {
    for (size_t begin : {0, 1, 7}) {
      const auto part = std::span<const std::byte>(bytes).subspan(begin, size);
      const uint32_t wanted = bit_by_bit(part);
      EXPECT_EQ(crc32c(part), wanted) << size;
      EXPECT_EQ(extend_crc32c(crc32c(part.first(100)), part.subspan(100)), wanted) << size;
    }
  }
}

}  // namespace
}  // namespace engram
