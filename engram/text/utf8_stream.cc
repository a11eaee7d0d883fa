#include "engram/text/utf8_stream.h"

namespace engram {
namespace {

constexpr std::string_view kReplacement = "\uFFFD";

struct Utf8Step {
  size_t length;  // bytes to take
  bool valid;     // a character; else a maximal broken part, one U+FFFD
  bool complete;  // false: the bytes end inside a character
};

// The next character by the table of well-formed sequences (Unicode, 3.9): overlong forms and surrogates are broken.
Utf8Step next_character(std::string_view bytes) {
  auto at = [bytes](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char lead = at(0);
  if (lead < 0x80) return {1, true, true};
  if (lead < 0xC2 || lead > 0xF4) return {1, false, true};
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  for (size_t i = 1; i < length; ++i) {
    if (i == bytes.size()) return {i, false, false};
    unsigned char low = 0x80, high = 0xBF;
    if (i == 1 && lead == 0xE0) low = 0xA0;
    if (i == 1 && lead == 0xED) high = 0x9F;
    if (i == 1 && lead == 0xF0) low = 0x90;
    if (i == 1 && lead == 0xF4) high = 0x8F;
    if (at(i) < low || at(i) > high) return {i, false, true};
  }
  return {length, true, true};
}

}  // namespace

std::string Utf8Stream::push(std::string_view bytes) {
  pending_ += bytes;
  std::string out;
  size_t used = 0;
  while (used < pending_.size()) {
    const std::string_view rest = std::string_view(pending_).substr(used);
    const Utf8Step step = next_character(rest);
    if (!step.complete) break;
    out += step.valid ? rest.substr(0, step.length) : kReplacement;
    used += step.length;
  }
  pending_.erase(0, used);
  return out;
}

std::string Utf8Stream::finish() {
  const bool broken = !pending_.empty();
  pending_.clear();
  return broken ? std::string(kReplacement) : std::string();
}

}  // namespace engram
