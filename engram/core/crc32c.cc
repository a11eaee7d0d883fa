#include "engram/core/crc32c.h"

#include <array>
#include <cstring>

#include "engram/port/instructions.h"

namespace engram {
namespace {

constexpr std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? 0x82F63B78u : 0u);
    table[byte] = crc;
  }
  return table;
}
constexpr std::array<uint32_t, 256> kTable = make_table();

// A step waits three cycles for the one before it, and one can start every cycle: three lanes go side by side. Three
// lanes are a page of a row file except for a few bytes.
constexpr size_t kLane = 1360;

// What kLane zero bytes make of a state. That is linear: a table per byte of the state, from the 32 single bits.
using LaneShift = std::array<std::array<uint32_t, 256>, 4>;
constexpr LaneShift make_lane_shift() {
  LaneShift shift{};
  for (size_t byte = 0; byte < 4; ++byte) {
    for (uint32_t bit = 0; bit < 8; ++bit) {
      uint32_t state = uint32_t{1} << (8 * byte + bit);
      for (size_t i = 0; i < kLane; ++i) state = (state >> 8) ^ kTable[state & 0xFF];
      shift[byte][size_t{1} << bit] = state;
    }
    for (uint32_t value = 1; value < 256; ++value)
      shift[byte][value] = shift[byte][value & (value - 1)] ^ shift[byte][value & ~(value - 1)];
  }
  return shift;
}
constexpr LaneShift kLaneShift = make_lane_shift();

uint64_t shift_lane(uint64_t state) {
  return kLaneShift[0][state & 0xFF] ^ kLaneShift[1][state >> 8 & 0xFF] ^ kLaneShift[2][state >> 16 & 0xFF] ^
         kLaneShift[3][state >> 24];
}

uint64_t load_word(const std::byte* data) {
  uint64_t word;
  std::memcpy(&word, data, sizeof word);
  return word;
}

ENGRAM_CRC32C_FUNCTION uint32_t extend_by_instruction(uint32_t crc, const std::byte* data, size_t size) {
  uint64_t state = static_cast<uint32_t>(~crc);
  for (; size >= 3 * kLane; data += 3 * kLane, size -= 3 * kLane) {
    uint64_t second = 0, third = 0;
    for (size_t at = 0; at < kLane; at += 8) {
      state = port::crc32c_step(state, load_word(data + at));
      second = port::crc32c_step(second, load_word(data + kLane + at));
      third = port::crc32c_step(third, load_word(data + 2 * kLane + at));
    }
    state = shift_lane(shift_lane(state) ^ second) ^ third;
  }
  for (; size >= 8; data += 8, size -= 8) state = port::crc32c_step(state, load_word(data));
  auto narrow = static_cast<uint32_t>(state);
  for (; size > 0; ++data, --size) narrow = port::crc32c_step(narrow, static_cast<uint8_t>(*data));
  return ~narrow;
}

}  // namespace

uint32_t extend_crc32c_plain(uint32_t crc, std::span<const std::byte> bytes) {
  crc = ~crc;
  for (std::byte byte : bytes) crc = (crc >> 8) ^ kTable[(crc ^ static_cast<uint8_t>(byte)) & 0xFF];
  return ~crc;
}

uint32_t extend_crc32c(uint32_t crc, std::span<const std::byte> bytes) {
  static const bool has = port::has_crc32c();
  if (has) return extend_by_instruction(crc, bytes.data(), bytes.size());
  return extend_crc32c_plain(crc, bytes);
}

}  // namespace engram
