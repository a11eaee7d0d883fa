#include "engram/serve/output_text.h"

#include <gtest/gtest.h>

namespace engram {
namespace {

// Byte tokens: the id of a byte is what encoding it gives.
class Text {
 public:
  explicit Text(std::vector<std::string> stop)
      : tokenizer_(std::make_shared<const Tokenizer>(
            value_or_throw(Tokenizer::parse(Tokenizer::byte_level_json({"<|endoftext|>"}), "tiny")))),
        text_(tokenizer_, std::move(stop)) {}
  std::string push(const std::string& bytes) {
    std::string out;
    for (char byte : bytes) {
      for (int32_t id = 0; id < tokenizer_->vocab_size(); ++id) {
        if (!tokenizer_->is_special(id) && tokenizer_->token_bytes(id) == std::string_view(&byte, 1))
          out += text_.push(id);
      }
    }
    return out;
  }
  std::string push_special() { return text_.push(tokenizer_->token_id("<|endoftext|>")); }
  std::string finish() { return text_.finish(); }
  bool stopped() const { return text_.stopped(); }

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  OutputText text_;
};

TEST(OutputText, GivesTextAsItCompletes) {
  Text text({});
  EXPECT_EQ(text.push("a\xE5\x9B"), "a");
  EXPECT_EQ(text.push("\x9B!"), "\xE5\x9B\x9B!");
  EXPECT_EQ(text.push_special(), "");
  EXPECT_EQ(text.push("\xC3"), "");
  EXPECT_EQ(text.finish(), "\uFFFD");
  EXPECT_FALSE(text.stopped());
}

TEST(OutputText, HoldsBackWhatMayBecomeAStopString) {
  Text text({"END", "\n\n"});
  EXPECT_EQ(text.push("abcE"), "abc");
  EXPECT_EQ(text.push("N"), "");
  EXPECT_EQ(text.push("e"), "ENe");
  EXPECT_EQ(text.push("x\n"), "x");
  EXPECT_EQ(text.push("y"), "\ny");
  EXPECT_EQ(text.push("zEN"), "z");
  EXPECT_EQ(text.push("D more"), "");
  EXPECT_TRUE(text.stopped());
  EXPECT_EQ(text.push("x"), "");
  EXPECT_EQ(text.finish(), "");
}

TEST(OutputText, HeldTextComesOutAtTheEnd) {
  Text text({"STOP"});
  EXPECT_EQ(text.push("aSTO"), "a");
  EXPECT_EQ(text.finish(), "STO");
}

TEST(OutputText, CutsBeforeTheFirstOfSeveralStopStrings) {
  Text text({"bc", "abcd", ""});
  EXPECT_EQ(text.push("xab"), "x");  // may become abcd or bc
  EXPECT_EQ(text.push("c"), "a");
  EXPECT_TRUE(text.stopped());
}

}  // namespace
}  // namespace engram
