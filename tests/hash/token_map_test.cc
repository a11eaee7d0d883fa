#include "engram/hash/token_map.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "engram/core/sha256.h"
#include "engram/text/tokenizer.h"

namespace engram {
namespace {

using nlohmann::json;

// A tokenizer whose added tokens are the given texts; their ids start at 256.
Tokenizer with_tokens(const std::vector<std::string>& tokens) {
  json file = json::parse(Tokenizer::byte_level_json({}));
  for (size_t i = 0; i < tokens.size(); ++i) {
    file["added_tokens"].push_back({{"id", 256 + i},
                                    {"content", tokens[i]},
                                    {"single_word", false},
                                    {"lstrip", false},
                                    {"rstrip", false},
                                    {"normalized", false},
                                    {"special", false}});
  }
  return value_or_throw(Tokenizer::parse(file.dump(), "made"));
}

// Whole vocabularies against the package `tokenizers` are golden cases; here, the rules one by one.
TEST(TokenMap, TextsThatNormaliseAlikeShareAnId) {
  const std::vector<std::string> texts = {
      "word",         "WORD",         " Word",        "w\u00f6rd\u3000", "\uff37ord",  // case, space, marks, width
      "two  words",   "Two\t\nwords", "  ",           "\u2003",                        // runs; no-break and em spaces
      "of\ufb01ce",   "office",       "\u0130\u4e2d", "i\u4e2d",         "\u03a3\u03c2",
      "\u03c3\u03c2",  // ligature, dotted I, sigmas
      "\ue000",       "x\ue000y",     "x y"};
  const Tokenizer tokenizer = with_tokens(texts);
  const TokenMap map = value_or_throw(TokenMap::from_tokenizer(tokenizer));
  auto canonical = [&](size_t i) { return map.ids()[256 + i]; };
  for (size_t i : {1, 2, 3, 4}) EXPECT_EQ(canonical(i), canonical(0)) << texts[i];
  EXPECT_EQ(canonical(6), canonical(5));
  EXPECT_EQ(canonical(7), map.ids()[' ']);  // a run of spaces is one space
  EXPECT_EQ(canonical(8), map.ids()[' ']);  // NFKC makes it a space
  EXPECT_EQ(canonical(10), canonical(9));
  EXPECT_EQ(canonical(12), canonical(11));  // the dot above is a mark by then
  EXPECT_EQ(canonical(14), canonical(13));
  EXPECT_EQ(canonical(15), map.ids()[' ']);  // the shield of a lone space is unshielded
  EXPECT_EQ(canonical(17), canonical(16));
  EXPECT_EQ(map.ids()['\t'], map.ids()[' ']);
  EXPECT_EQ(map.ids()['A'], map.ids()['a']);
  EXPECT_NE(map.ids()[0xE4], map.ids()[0xE5]);  // pieces of UTF-8 keep their own spelling
}

TEST(TokenMap, AMarkAloneKeepsItsText) {
  const TokenMap map = value_or_throw(TokenMap::from_tokenizer(with_tokens({"\u0301", "\u0302", " \u0301"})));
  EXPECT_NE(map.ids()[256], map.ids()[257]);
  EXPECT_EQ(map.ids()[258], map.ids()[' ']);
}

TEST(TokenMap, IdsAreGivenInFirstSeenOrder) {
  const TokenMap map = value_or_throw(TokenMap::from_tokenizer(with_tokens({"ab", "AB"})));
  int32_t next = 0;
  for (int32_t id : map.ids()) {
    EXPECT_LE(id, next);
    next = std::max(next, id + 1);
  }
  EXPECT_EQ(next, map.compressed_vocab_size());
}

TEST(TokenMap, IdentityAndGivenIds) {
  const TokenMap identity = TokenMap::identity(3);
  EXPECT_EQ(identity.vocab_size(), 3);
  EXPECT_EQ(identity.compressed_vocab_size(), 3);
  EXPECT_EQ(identity.sha256(), sha256_hex(std::string("\0\0\0\0\1\0\0\0\2\0\0\0", 12)));
  EXPECT_EQ(value_or_throw(TokenMap::from_ids({0, 1, 0}, 2)).vocab_size(), 3);
  EXPECT_EQ(TokenMap::from_ids({0, 2}, 2).status().message(), "token map: id 1 has the canonical id 2, wanted 0 .. 1");
  EXPECT_FALSE(TokenMap::from_ids({-1}, 2).ok());
  EXPECT_EQ(TokenMap().vocab_size(), 0);
}

}  // namespace
}  // namespace engram
