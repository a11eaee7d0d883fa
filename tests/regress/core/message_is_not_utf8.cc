// Seen: a name with an overlong form, a surrogate or a value over U+10FFFF went into a message as it was, and the
// message was no UTF-8. Right: such bytes show as \xNN, as all other broken UTF-8 does.
#include <gtest/gtest.h>

#include "engram/core/json.h"

namespace engram {
namespace {

TEST(MessageIsNotUtf8, IllFormedSequencesAreBytes) {
  EXPECT_EQ(quote_text("\xE0\x80\x80"), "'\\xe0\\x80\\x80'");
  EXPECT_EQ(quote_text("\xED\xA0\x80"), "'\\xed\\xa0\\x80'");
  EXPECT_EQ(quote_text("\xF4\x90\x80\x80"), "'\\xf4\\x90\\x80\\x80'");
  EXPECT_EQ(quote_text("\xEF\xBF\xBD"), "'\xEF\xBF\xBD'");
}

}  // namespace
}  // namespace engram
