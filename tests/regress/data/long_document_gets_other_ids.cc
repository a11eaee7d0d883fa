// A document over 1 MiB was tokenised in pieces, cut at line ends. With add_prefix_space, a Prepend normalizer, an
// added token with lstrip, or a pattern that joins a line feed to what follows, the ids were not those of the whole
// text.
//
// Right: a cut only where the tokenizer proves that it changes nothing. Tried here: every tokenizer variant of
// tests/text, on random texts, at every line feed.
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "engram/core/json.h"
#include "engram/data/prepare.h"
#include "engram/text/text_cuts.h"
#include "tests/data/data_test.h"

namespace engram {
namespace {

struct Variant {
  std::string name;
  Tokenizer tokenizer;
  TextCuts cuts = TextCuts(tokenizer);
};

nlohmann::json variant_file() {
  return value_or_throw(read_json_file(Env::posix(), ENGRAM_SOURCE_DIR "/tests/text/data/tokenizer_variants.json"));
}

std::vector<Variant> all_variants(const nlohmann::json& cases) {
  std::vector<Variant> variants;
  for (const nlohmann::json& variant : cases["variants"]) {
    nlohmann::json file = cases["base"];
    for (const auto& [key, value] : variant["patch"].items()) {
      if (key == "model") {
        file["model"].merge_patch(value);
      } else {
        file[key] = value;
      }
    }
    variants.push_back({variant["name"], value_or_throw(Tokenizer::parse(file.dump(), "variant"))});
  }
  return variants;
}

// Pieces of the variants' texts, and what may stand around a line feed, in random order.
std::string random_text(const nlohmann::json& cases, std::mt19937& random, int parts) {
  static const char* const kEdges[] = {"\n",     "a",      "\n",   " ",      "\n", ".",   "/",      "\n",     "7",
                                       "\u4e2d", "\t",     "\r\n", "\n",     "'s", "\n",  "\u0301", "\u00a8", "\n",
                                       "Z",      "\u3000", "\n",   "<mask>", "\n", "!",   "\u200d", "\n",     "\u00e9",
                                       "\x01",   "\n",     "_",    "[day]",  "\n", "</s>"};
  std::string text;
  for (int i = 0; i < parts; ++i) {
    const auto& texts = cases["texts"];
    if (random() % 8 == 0) text += texts[random() % texts.size()].get<std::string>();
    text += kEdges[random() % std::size(kEdges)];
  }
  return text;
}

TEST(LongDocumentGetsOtherIds, ACutIsAllowedOnlyWhereItChangesNothing) {
  const nlohmann::json cases = variant_file();
  const std::vector<Variant> variants = all_variants(cases);
  std::mt19937 random(17);
  std::map<std::string, int> cuts;
  for (int round = 0; round < 40; ++round) {
    const std::string text = random_text(cases, random, 60);
    for (const Variant& variant : variants) {
      const Result<std::vector<int32_t>> whole = variant.tokenizer.encode(text);
      if (!whole.ok()) continue;  // a pattern that backtracks too much
      for (size_t at = 1; at < text.size(); ++at) {
        if (text[at - 1] != '\n' || !variant.cuts.may_cut(text, at)) continue;
        std::vector<int32_t> ids = value_or_throw(variant.tokenizer.encode(text.substr(0, at)));
        const std::vector<int32_t> rest = value_or_throw(variant.tokenizer.encode(text.substr(at)));
        ids.insert(ids.end(), rest.begin(), rest.end());
        ASSERT_EQ(ids, *whole) << variant.name << " at byte " << at << " of " << quote_text(text, 4000);
        ++cuts[variant.name];
      }
    }
  }
  // The published tokenizers are cut, so that long documents still use every core.
  for (const char* name : {"cl100k", "qwen2", "o200k", "deepseek", "byte level False True", "digits True", "NFC",
                           "Lowercase", "added {'rstrip': True}"})
    EXPECT_GT(cuts[name], 50) << name;
  for (const char* name : {"byte level True True", "byte level False False", "Prepend", "added {'lstrip': True}",
                           "deepseek-llm", "Strip True True", "lookbehind", "end"})
    EXPECT_EQ(cuts[name], 0) << name;
}

TEST(LongDocumentGetsOtherIds, OnlyBehindALineFeedBetweenText) {
  nlohmann::json cases = variant_file();
  const TextCuts cuts(value_or_throw(Tokenizer::parse(cases["base"].dump(), "base")));
  EXPECT_TRUE(cuts.may_cut("ab\ncd", 3));
  EXPECT_TRUE(cuts.may_cut("ab\ncd", 0));
  EXPECT_TRUE(cuts.may_cut("ab\ncd", 5));
  EXPECT_FALSE(cuts.may_cut("ab\ncd", 2));
  EXPECT_FALSE(cuts.may_cut("ab\n\ncd", 3));
  EXPECT_FALSE(cuts.may_cut("ab\n\ncd", 4));
  EXPECT_FALSE(cuts.may_cut("ab\n cd", 3));
  EXPECT_FALSE(cuts.may_cut("ab\n/cd", 3));
  EXPECT_FALSE(cuts.may_cut("\nab", 1));
}

class LongDocument : public DataTest {};

TEST_F(LongDocument, ShardsHoldTheIdsOfTheWholeText) {
  const nlohmann::json cases = variant_file();
  std::mt19937 random(3);
  std::string text = "The beginning";
  while (text.size() < 40000) text += random_text(cases, random, 20);
  text += "\nthe end";
  write("long.txt", text);
  const std::set<std::string> names = {"byte level True True", "Prepend", "added {'lstrip': True}", "deepseek",
                                       "cl100k"};
  for (const Variant& variant : all_variants(cases)) {
    if (!names.contains(variant.name)) continue;
    const Result<std::vector<int32_t>> whole = variant.tokenizer.encode(text);
    if (!whole.ok()) continue;
    PrepareOptions options;
    options.files = {path("long.txt")};
    options.output_directory = path("out");
    options.document_separator = "none";
    options.validation_fraction = 0;
    options.threads = 3;
    options.piece_bytes = 1000;
    (void)value_or_throw(prepare_shards(Env::posix(), variant.tokenizer, options));
    const TokenShard shard = value_or_throw(TokenShard::open(Env::posix(), path("out/train.tokens")));
    std::vector<int32_t> ids(static_cast<size_t>(shard.info().num_tokens));
    shard.copy_tokens(0, ids);
    std::vector<int32_t> wanted = *whole;
    if (const int32_t end = find_end_of_text_token(variant.tokenizer); end >= 0) wanted.push_back(end);
    EXPECT_TRUE(ids == wanted) << variant.name;
  }
}

}  // namespace
}  // namespace engram
