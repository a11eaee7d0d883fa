#include "engram/text/byte_alphabet.h"

#include <array>

#include "engram/text/unicode.h"

namespace engram {
namespace {

struct ByteAlphabet {
  std::array<char32_t, 256> code_points;
  std::array<int, 512> bytes;  // by code point; -1
  ByteAlphabet() {
    bytes.fill(-1);
    char32_t next = 256;
    for (int b = 0; b < 256; ++b) {
      bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      code_points[static_cast<size_t>(b)] = printable ? static_cast<char32_t>(b) : next++;
      bytes[code_points[static_cast<size_t>(b)]] = b;
    }
  }
};
const ByteAlphabet& alphabet() {
  static const ByteAlphabet instance;
  return instance;
}

}  // namespace

std::string byte_level_encode(std::string_view bytes) {
  std::string out;
  for (char byte : bytes) append_utf8(out, alphabet().code_points[static_cast<unsigned char>(byte)]);
  return out;
}

std::optional<std::string> byte_level_decode(std::string_view token) {
  std::string out;
  for (size_t at = 0; at < token.size();) {
    char32_t code_point = next_code_point(token, at);
    int byte = code_point < 512 ? alphabet().bytes[code_point] : -1;
    if (byte < 0) return std::nullopt;
    out.push_back(static_cast<char>(byte));
  }
  return out;
}

}  // namespace engram
