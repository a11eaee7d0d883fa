#include "engram/text/utf8_stream.h"

#include <gtest/gtest.h>

namespace engram {
namespace {

TEST(Utf8Stream, HoldsBackIncompleteCharacters) {
  Utf8Stream stream;
  EXPECT_EQ(stream.push("a\xE5"), "a");
  EXPECT_EQ(stream.push("\x9B"), "");
  EXPECT_EQ(stream.push("\x9B!"), "\xE5\x9B\x9B!");
  EXPECT_EQ(stream.finish(), "");
  EXPECT_EQ(stream.push("\xF0\x9F\x98"), "");
  EXPECT_EQ(stream.finish(), "\uFFFD");
}

TEST(Utf8Stream, BrokenBytesBecomeReplacements) {
  Utf8Stream stream;
  EXPECT_EQ(stream.push("\xFFz"), "\uFFFDz");
  EXPECT_EQ(stream.push("\xC0\xAF"), "\uFFFD\uFFFD");            // overlong
  EXPECT_EQ(stream.push("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");  // a surrogate
  EXPECT_EQ(stream.push("\xE5\x9Bz"), "\uFFFDz");                // cut off inside a character
}

}  // namespace
}  // namespace engram
