// UTF-8, one sequence at a time, by the table of well-formed sequences (Unicode, 3.9).
#pragma once
#include <cstddef>
#include <string_view>

namespace engram {

struct Utf8Sequence {
  size_t length;  // bytes to take
  bool valid;     // a character; else a maximal ill-formed part, for one U+FFFD
  bool complete;  // false: the bytes end inside a sequence that others could complete
};

// What `bytes` begin with. Overlong forms, surrogates and values over U+10FFFF are ill-formed. REQUIRES: not empty.
inline Utf8Sequence next_utf8(std::string_view bytes) {
  const auto at = [bytes](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char lead = at(0);
  if (lead < 0x80) return {1, true, true};
  if (lead < 0xC2 || lead > 0xF4) return {1, false, true};
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  unsigned char low = 0x80, high = 0xBF;  // of the next byte
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (size_t i = 1; i < length; ++i, low = 0x80, high = 0xBF) {
    if (i == bytes.size()) return {i, false, false};
    if (at(i) < low || at(i) > high) return {i, false, true};
  }
  return {length, true, true};
}

}  // namespace engram
