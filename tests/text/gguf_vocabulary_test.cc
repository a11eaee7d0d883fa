#include "engram/text/gguf_vocabulary.h"

#include <nlohmann/json.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace engram {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

GgufVocabulary small_gpt2() {
  GgufVocabulary from{.model = "gpt2", .pre = "smollm"};
  from.tokens = {"<s>", "<tool>", "a", "b", "\u0120", "1", "ab", "\u0120ab"};
  from.token_type = {3, 4, 1, 1, 1, 1, 1, 1};
  from.merges = {"a b", "\u0120 ab"};
  from.bos_token_id = 0;
  return from;
}

TEST(GgufVocabulary, Gpt2WithAKnownPreTokenizer) {
  GgufVocabulary from = small_gpt2();
  const Tokenizer tokenizer = value_or_throw(tokenizer_of(from, "m.gguf"));
  EXPECT_THAT(value_or_throw(tokenizer.encode("ab ab11<tool><s>", true)), ElementsAre(6, 7, 5, 5, 1, 0));
  EXPECT_TRUE(tokenizer.is_special(0));
  EXPECT_FALSE(tokenizer.is_special(1));
  EXPECT_EQ(value_or_throw(tokenizer.decode(std::vector<int32_t>{0, 7, 1, 5}, true)), " ab<tool>1");
  from.add_bos_token = true;
  EXPECT_THAT(value_or_throw(value_or_throw(tokenizer_of(from, "m.gguf")).encode("a", true)), ElementsAre(0, 2));
  // What it became is an ordinary file.
  EXPECT_TRUE(Tokenizer::parse(tokenizer.json(), "written").ok());
}

// The merges come from the scores; ids of published vocabularies were compared with SentencePiece (docs/tokenizers.md).
TEST(GgufVocabulary, LlamaWithScores) {
  GgufVocabulary from{.model = "llama"};
  from.tokens = {"<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "\u2581", "a", "b", "\u2581a", "ab", "\u2581ab"};
  from.scores = {0, 0, 0, 0, 0, -9, -10, -11, -1, -2, -3};
  from.token_type = {2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1};
  from.bos_token_id = 1;
  from.unknown_token_id = 0;
  const Tokenizer tokenizer = value_or_throw(tokenizer_of(from, "m.gguf"));
  EXPECT_THAT(value_or_throw(tokenizer.encode("ab", true)), ElementsAre(1, 10));
  EXPECT_THAT(value_or_throw(tokenizer.encode("bab\u00e9x")), ElementsAre(5, 7, 9, 3, 4, 0));
  EXPECT_EQ(value_or_throw(tokenizer.decode(std::vector<int32_t>{1, 10, 3, 4, 8}, true)), "ab\u00e9 a");
  from.add_space_prefix = false;
  EXPECT_THAT(value_or_throw(value_or_throw(tokenizer_of(from, "m.gguf")).encode("ab")), ElementsAre(9));
}

template <typename Edit>
std::string error_of(GgufVocabulary from, Edit&& edit) {
  edit(from);
  Result<Tokenizer> tokenizer = tokenizer_of(from, "m.gguf");
  EXPECT_FALSE(tokenizer.ok());
  return tokenizer.ok() ? "" : tokenizer.status().message();
}

TEST(GgufVocabulary, RefusesByName) {
  const auto error = [](auto edit) { return error_of(small_gpt2(), edit); };
  EXPECT_THAT(error([](auto& v) { v.pre = "bloom"; }),
              HasSubstr("m.gguf: tokenizer.ggml.pre: got 'bloom', wanted one of gpt-2, "));
  EXPECT_THAT(error([](auto& v) { v.model = "t5"; }), HasSubstr("tokenizer.ggml.model: got 't5', wanted 'gpt2' or"));
  EXPECT_THAT(error([](auto& v) { v.tokens.clear(); }), HasSubstr("tokenizer.ggml.tokens: 0 tokens"));
  EXPECT_THAT(error([](auto& v) { v.tokens[2] = "b"; }), HasSubstr("tokenizer.ggml.tokens: 'b' appears twice"));
  EXPECT_THAT(error([](auto& v) { v.token_type.pop_back(); }), HasSubstr("token_type: got 7 entries, wanted 8"));
  EXPECT_THAT(error([](auto& v) { v.bos_token_id = 8; }), HasSubstr("bos_token_id: got 8, wanted an id below 8"));
  EXPECT_THAT(error([](auto& v) { v.merges[0] = "ab"; }), HasSubstr("tokenizer.ggml.merges: 'ab' is not two tokens"));
  EXPECT_THAT(error([](auto& v) { v.merges[0] = "a c"; }), HasSubstr("needs the token 'c'"));
  EXPECT_THAT(error([](auto& v) { v.model = "llama"; }), HasSubstr("scores: got 0 entries, wanted 8"));
}

}  // namespace
}  // namespace engram
