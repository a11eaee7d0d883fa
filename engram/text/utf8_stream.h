// Utf8Stream: the bytes of tokens, which may end inside a character, as text that can be shown.
#pragma once
#include <string>
#include <string_view>

namespace engram {

// Bytes in, complete UTF-8 out: holds back the bytes of a character that is not complete yet.
class Utf8Stream {
 public:
  // The longest prefix of all bytes so far that is complete; what can never become a character is U+FFFD.
  std::string push(std::string_view bytes);
  // What remains at the end, as U+FFFD.
  std::string finish();

 private:
  std::string pending_;
};

}  // namespace engram
