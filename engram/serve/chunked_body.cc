#include "engram/serve/chunked_body.h"

#include <algorithm>

namespace engram {
namespace {

constexpr int kMostDigits = 16;

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool is_token_char(char c) {
  const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  return letter || (c != '\0' && std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos);
}

bool is_text_char(char c) { return c == '\t' || (static_cast<unsigned char>(c) >= ' ' && c != '\x7f'); }

}  // namespace

ChunkedBody::State ChunkedBody::bad(const char* problem) {
  problem_ = problem;
  return State::kBad;
}

ChunkedBody::State ChunkedBody::go_on(Part part) {
  part_ = part;
  return State::kNeedMore;
}

ChunkedBody::State ChunkedBody::begin_chunk() {
  digits_ = 0;
  if (size_ == 0) return go_on(Part::kLine);
  if (size_ > body_left_) return State::kTooMuchBody;
  body_left_ -= size_;
  return go_on(Part::kData);
}

ChunkedBody::State ChunkedBody::step(char c) {
  switch (part_) {
    case Part::kSize:
      if (const int value = hex_value(c); value >= 0) {
        if (++digits_ > kMostDigits) return bad("the size of a chunk has more than 16 digits");
        size_ = size_ * 16 + static_cast<uint64_t>(value);
        return State::kNeedMore;
      }
      if (digits_ == 0) return bad("the size of a chunk is no number");
      if (c == '\r') return go_on(Part::kSizeEnd);
      if (c != ';' && c != ' ' && c != '\t') return bad("the size of a chunk is no number");
      return go_on(Part::kExtension);
    case Part::kExtension:
      if (c == '\r') return go_on(Part::kSizeEnd);
      return is_text_char(c) ? State::kNeedMore : bad("a control character in the extension of a chunk");
    case Part::kSizeEnd: return c == '\n' ? begin_chunk() : bad("the line of a chunk's size ends without LF");
    case Part::kDataCr: return c == '\r' ? go_on(Part::kDataLf) : bad("a chunk does not end where its size says");
    case Part::kDataLf: return c == '\n' ? go_on(Part::kSize) : bad("a chunk does not end where its size says");
    case Part::kLine:
      if (c == '\r') return go_on(Part::kLast);
      return is_token_char(c) ? go_on(Part::kName) : bad("a line of the trailer has no name");
    case Part::kName:
      if (c == ':') return go_on(Part::kValue);
      return is_token_char(c) ? State::kNeedMore : bad("a line of the trailer has no name");
    case Part::kValue:
      if (c == '\r') return go_on(Part::kLineEnd);
      return is_text_char(c) ? State::kNeedMore : bad("a control character in the trailer");
    case Part::kLineEnd: return c == '\n' ? go_on(Part::kLine) : bad("a line of the trailer ends without LF");
    case Part::kLast: return c == '\n' ? go_on(Part::kDone) : bad("the trailer ends without LF");
    case Part::kData:
    case Part::kDone: break;
  }
  return State::kNeedMore;
}

// A chunk of one byte or more pays for its own size line of up to 20 bytes; all else is counted.
ChunkedBody::State ChunkedBody::feed(std::string_view& bytes, std::string& body) {
  while (!bytes.empty() && part_ != Part::kDone) {
    if (part_ == Part::kData) {
      const size_t count = std::min<uint64_t>(size_, bytes.size());
      body.append(bytes.substr(0, count));
      bytes.remove_prefix(count);
      size_ -= count;
      if (size_ == 0) part_ = Part::kDataCr;
      continue;
    }
    const bool counted = part_ == Part::kExtension || part_ >= Part::kLine;
    if (counted && else_left_-- == 0) return State::kTooMuchElse;
    const char c = bytes.front();
    bytes.remove_prefix(1);
    if (const State state = step(c); state != State::kNeedMore) return state;
  }
  return part_ == Part::kDone ? State::kDone : State::kNeedMore;
}

}  // namespace engram
