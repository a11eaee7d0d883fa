#include "engram/text/utf8_stream.h"

#include "engram/core/utf8.h"

namespace engram {
namespace {

constexpr std::string_view kReplacement = "\uFFFD";

}  // namespace

std::string Utf8Stream::push(std::string_view bytes) {
  pending_ += bytes;
  std::string out;
  size_t used = 0;
  while (used < pending_.size()) {
    const std::string_view rest = std::string_view(pending_).substr(used);
    const Utf8Sequence next = next_utf8(rest);
    if (!next.complete) break;
    out += next.valid ? rest.substr(0, next.length) : kReplacement;
    used += next.length;
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
