#include "engram/lab/probes/gates.h"

#include <gtest/gtest.h>

namespace engram {
namespace {

// Byte tokens: id = byte value is not promised, so ids come from encode().
Tokenizer byte_tokenizer() {
  return value_or_throw(Tokenizer::parse(Tokenizer::byte_level_json({"<|endoftext|>"}), "test"));
}

GateTrace trace_of(const std::vector<float>& values) { return {1, 1, static_cast<int64_t>(values.size()), values}; }

TEST(Gates, PiecesAreWholeCharacters) {
  const Tokenizer tokenizer = byte_tokenizer();
  const std::string text = "a\xE5\x9B\x9B\xF0\x9F\x98\x80z";  // a, a Chinese character, an emoji, z
  const auto tokens = value_or_throw(tokenizer.encode(text));
  const auto pieces = split_pieces(tokenizer, tokens);
  ASSERT_EQ(pieces.size(), 4u);
  EXPECT_EQ(pieces[1].text, "\xE5\x9B\x9B");
  EXPECT_EQ(pieces[1].token, 3);
  EXPECT_EQ(pieces[2].token, 7);
  EXPECT_EQ(pieces[3].text, "z");
}

TEST(Gates, ACutCharacterAtTheEndIsKept) {
  const Tokenizer tokenizer = byte_tokenizer();
  auto tokens = value_or_throw(tokenizer.encode("a\xE5\x9B\x9B"));
  tokens.pop_back();
  const auto pieces = split_pieces(tokenizer, tokens);
  ASSERT_EQ(pieces.size(), 2u);
  EXPECT_EQ(pieces[1].token, 2);
}

TEST(Gates, SpreadOfKnownValues) {
  const GateSpread spread = gate_spread(trace_of({0.2f, 0.4f, 0.6f, 0.8f}), 0, 0);
  EXPECT_NEAR(spread.mean, 0.5, 1e-6);
  EXPECT_NEAR(spread.deviation, 0.2236068, 1e-6);
  EXPECT_NEAR(spread.low, 0.212, 1e-6);  // the 2nd percentile lies between the first two
}

TEST(Gates, HighestNgramsNeedTheirCount) {
  const Tokenizer tokenizer = byte_tokenizer();
  const auto tokens = value_or_throw(tokenizer.encode("abxabyqz"));
  const auto gates = trace_of({0.1f, 0.9f, 0.2f, 0.1f, 0.7f, 0.2f, 0.1f, 1.0f});
  const auto found = highest_gates(tokenizer, tokens, gates, 0, 2, 2, 10);
  ASSERT_EQ(found.size(), 1u);  // "qz" has the highest gate but is seen once
  EXPECT_EQ(found[0].text, "ab");
  EXPECT_EQ(found[0].count, 2);
  EXPECT_NEAR(found[0].mean_gate, 0.8, 1e-6);
}

}  // namespace
}  // namespace engram
