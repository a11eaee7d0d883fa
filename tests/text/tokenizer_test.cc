#include "engram/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "engram/core/sha256.h"

namespace engram {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

// Special tokens <s> and </s>, 256 bytes, then ab, aba, abab.
json small_file() {
  json file = json::parse(Tokenizer::byte_level_json({"<s>", "</s>"}));
  json& vocab = file["model"]["vocab"];
  for (const char* token : {"ab", "aba", "abab"}) vocab[token] = vocab.size();
  file["model"]["merges"] = json::array({"a b", json::array({"ab", "ab"}), json::array({"ab", "a"})});
  return file;
}

Tokenizer parse(const json& file) { return value_or_throw(Tokenizer::parse(file.dump(), "t.json")); }

// The error of a file that the edit makes of the small one.
template <typename Edit>
std::string error_of(Edit&& edit) {
  json file = small_file();
  edit(file);
  Result<Tokenizer> tokenizer = Tokenizer::parse(file.dump(), "t.json");
  EXPECT_FALSE(tokenizer.ok());
  if (tokenizer.ok()) return "";
  EXPECT_EQ(tokenizer.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(tokenizer.status().message(), testing::StartsWith("t.json: "));
  return tokenizer.status().message();
}

TEST(Tokenizer, EncodesDecodesAndNamesTokens) {
  const Tokenizer tokenizer = parse(small_file());
  EXPECT_EQ(tokenizer.vocab_size(), 2 + 256 + 3);
  EXPECT_THAT(value_or_throw(tokenizer.encode("<s>ababa b</s>")), ElementsAre(0, 260, 2 + 'a', 2 + ' ', 2 + 'b', 1));
  EXPECT_EQ(value_or_throw(tokenizer.decode(std::vector<int32_t>{0, 260, 2 + 0xE4, 2 + 0xB8})), "<s>abab\uFFFD");
  EXPECT_EQ(value_or_throw(tokenizer.decode(std::vector<int32_t>{0, 260, 1}, true)), "abab");
  EXPECT_EQ(tokenizer.token_bytes(2 + 0xE4), "\xE4");
  EXPECT_EQ(tokenizer.token_string(2 + ' '), "\u0120");
  EXPECT_EQ(tokenizer.token_id("aba"), 259);
  EXPECT_EQ(tokenizer.token_id("nothing"), -1);
  EXPECT_TRUE(tokenizer.is_special(1));
  EXPECT_FALSE(tokenizer.is_special(2));
  EXPECT_FALSE(tokenizer.is_special(-1));
  EXPECT_EQ(tokenizer.json(), small_file().dump());
}

TEST(Tokenizer, ByteLevelFileTakesAnyText) {
  const Tokenizer tokenizer = value_or_throw(Tokenizer::parse(Tokenizer::byte_level_json({"<|endoftext|>"}), "made"));
  std::string text = "a\u00e9\u4e2d\U0001F600\n";
  text.push_back('\0');
  auto ids = value_or_throw(tokenizer.encode(text));
  EXPECT_EQ(ids.size(), text.size());
  EXPECT_EQ(value_or_throw(tokenizer.decode(ids)), text);
  EXPECT_THAT(value_or_throw(tokenizer.encode("<|endoftext|>")), ElementsAre(0));
  EXPECT_EQ(tokenizer.vocab_size(), 257);
}

TEST(Tokenizer, DigestCoversTokensInIdOrder) {
  std::string message;
  const Tokenizer tokenizer = parse(small_file());
  for (int id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string& token = tokenizer.token_string(id);
    message += std::string{static_cast<char>(token.size()), 0, 0, 0} + token;
  }
  EXPECT_EQ(tokenizer.vocabulary_digest(), sha256_hex(message));
  json other = small_file();
  std::swap(other["model"]["vocab"]["ab"], other["model"]["vocab"]["aba"]);
  EXPECT_NE(parse(other).vocabulary_digest(), tokenizer.vocabulary_digest());
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8AndIdsOutsideTheVocabulary) {
  const Tokenizer tokenizer = parse(small_file());
  Status status = tokenizer.encode("abc\xFF").status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "text is not valid UTF-8 at byte 3 (0xff)");
  for (int32_t id : {-1, tokenizer.vocab_size()}) {
    Status range = tokenizer.decode({&id, 1}).status();
    EXPECT_EQ(range.code(), StatusCode::kOutOfRange);
    EXPECT_EQ(range.message(), fmt::format("id {} at position 0, wanted 0 .. 260", id));
  }
}

TEST(Tokenizer, TruncatedAndCorruptedFilesFailCleanly) {
  const std::string text = small_file().dump();
  for (size_t length = 0; length < text.size(); length += 97) {
    EXPECT_FALSE(Tokenizer::parse(std::string_view(text).substr(0, length), "t").ok()) << length;
  }
  for (size_t at = 0; at < text.size(); at += 13) {
    std::string damaged = text;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x15);
    Result<Tokenizer> tokenizer = Tokenizer::parse(damaged, "t");  // a changed letter of a token is no error
    EXPECT_TRUE(!tokenizer.ok() || tokenizer->encode("<s>abab</s>").ok()) << at;
  }
  EXPECT_EQ(Tokenizer::load(Env::posix(), "/nonexistent/tokenizer.json").status().code(), StatusCode::kNotFound);
}

TEST(Tokenizer, VocabularyErrors) {
  auto vocab = [](const char* token, json id) { return [=](json& file) { file["model"]["vocab"][token] = id; }; };
  EXPECT_THAT(error_of(vocab("ab", 5)), HasSubstr("id 5 stands for both"));
  EXPECT_THAT(error_of(vocab("zz", 1 << 20)),
              HasSubstr("token 'zz' has the id 1048576, wanted less than 1048576 in a vocabulary of 262"));
  EXPECT_THAT(error_of(vocab("zz", -1)), HasSubstr("token 'zz' has the id -1, wanted an integer in 0 .. 2147483646"));
  EXPECT_THAT(error_of(vocab("zz", 2147483647)), HasSubstr("wanted an integer"));
  EXPECT_THAT(error_of(vocab("zz", 18446744073709551615u)), HasSubstr("wanted an integer"));
  EXPECT_THAT(error_of(vocab("zz", 261.5)), HasSubstr("wanted an integer"));
  EXPECT_THAT(error_of(vocab("zz", "261")), HasSubstr("wanted an integer"));
  EXPECT_THAT(error_of([](json& file) { file["model"]["vocab"] = json::array(); }), HasSubstr("no \"vocab\" object"));
  EXPECT_THAT(error_of([](json& file) { file["model"].erase("merges"); }), HasSubstr("no \"merges\" array"));
  EXPECT_THAT(error_of([](json& file) {
                file["model"]["vocab"] = json::object();
                file["model"]["merges"] = json::array();
                file["added_tokens"] = nullptr;
              }),
              HasSubstr("no tokens in it"));
}

TEST(Tokenizer, MergeErrors) {
  auto merges = [](json list) { return [=](json& file) { file["model"]["merges"] = list; }; };
  EXPECT_THAT(error_of(merges({"a b", "a zz"})), HasSubstr("merge 1 needs the token 'zz', which is not in the"));
  EXPECT_THAT(error_of(merges({"b a"})), HasSubstr("merge 0 needs the token 'ba'"));
  for (json bad : {json("ab"), json("a b c"), json(7), json::array({"a"}), json::array({"a", 7}), json(nullptr)}) {
    EXPECT_THAT(error_of(merges(json::array({bad}))), HasSubstr("merge 0 is neither"));
  }
}

TEST(Tokenizer, RefusesUnsupportedPartsByName) {
  auto set = [](const char* pointer, json value) {
    return [=](json& file) { file[json::json_pointer(pointer)] = value; };
  };
  EXPECT_THAT(error_of(set("/model/type", "Unigram")), HasSubstr("model: type 'Unigram' is not supported, wanted BPE"));
  EXPECT_THAT(error_of(set("/model/dropout", 0.1)), HasSubstr("dropout 0.1"));
  EXPECT_THAT(error_of(set("/model/end_of_word_suffix", "</w>")), HasSubstr("end_of_word_suffix '</w>'"));
  EXPECT_THAT(error_of(set("/model/new_key", 1)), HasSubstr("unknown key '"));
  EXPECT_THAT(error_of(set("/new_key", 1)), HasSubstr("unknown key '"));
  EXPECT_THAT(error_of(set("/version", "2.0")), HasSubstr("version: got '2.0', wanted '1.0'"));
  EXPECT_THAT(error_of(set("/normalizer", {{"type", "Nmt"}})), HasSubstr("normalizer: type 'Nmt' is not supported"));
  EXPECT_THAT(error_of(set("/normalizer", {{"type", "BertNormalizer"}})), HasSubstr("type 'BertNormalizer' is not"));
  EXPECT_THAT(error_of(set("/pre_tokenizer", {{"type", "UnicodeScripts"}})), HasSubstr("type 'UnicodeScripts'"));
  EXPECT_THAT(error_of(set("/pre_tokenizer", {{"type", "Metaspace"}, {"replacement", ""}})), HasSubstr("an empty"));
  EXPECT_THAT(error_of(set("/decoder/type", "WordPiece")), HasSubstr("decoder: type 'WordPiece' is not supported"));
  EXPECT_THAT(error_of(set("/decoder", {{"type", "Strip"}, {"content", " "}, {"start", -1}, {"stop", 0}})),
              HasSubstr("decoder: start: got -1"));
  const json byte_level = small_file()["pre_tokenizer"];
  const auto sequence = [](json parts) { return json{{"type", "Sequence"}, {"pretokenizers", parts}}; };
  EXPECT_THAT(error_of(set("/pre_tokenizer", sequence({byte_level, byte_level}))),
              HasSubstr("ByteLevel behind another"));
  EXPECT_THAT(error_of([](json& file) {
                file["normalizer"] = {{"type", "Prepend"}, {"prepend", "_ "}};
                file["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "first"}};
              }),
              HasSubstr("'first' behind this normalizer"));
  EXPECT_THAT(error_of(set("/post_processor", {{"type", "Other"}})), HasSubstr("post_processor: type 'Other'"));
  EXPECT_THAT(error_of(set("/pre_tokenizer/add_prefix_space", 1)), HasSubstr("wanted true or false"));
  const json split = {{"type", "Split"}, {"pattern", {{"Regex", "(a"}}}, {"behavior", "Isolated"}, {"invert", false}};
  EXPECT_THAT(error_of(set("/pre_tokenizer", split)), HasSubstr("pre_tokenizer: pattern '(a': end pattern with"));
  EXPECT_EQ(Tokenizer::parse("[]", "t").status().message(), "t: got an array, wanted an object");
}

// Ids as the package gives them, whatever the file says (the package's own answers are in tokenizer_pieces.json).
TEST(Tokenizer, IdsMayHaveHoles) {
  json file = small_file();
  file["model"]["vocab"]["zz"] = 400;
  const Tokenizer tokenizer = parse(file);
  EXPECT_EQ(tokenizer.vocab_size(), 401);
  EXPECT_EQ(tokenizer.token_string(399), "");
  EXPECT_EQ(tokenizer.token_id("zz"), 400);
  EXPECT_EQ(value_or_throw(tokenizer.decode(std::vector<int32_t>{258, 399, 400})), "abzz");
}

TEST(Tokenizer, ATokenGivenTwiceKeepsItsLastId) {
  std::string text = small_file().dump();
  const std::string entry = "\"ab\":258";
  text.insert(text.find("\"vocab\":{") + 9, entry + ",");
  text.replace(text.rfind(entry), entry.size(), "\"ab\":300");
  const Tokenizer tokenizer = value_or_throw(Tokenizer::parse(text, "t.json"));
  EXPECT_EQ(tokenizer.token_id("ab"), 300);
  EXPECT_EQ(tokenizer.token_string(258), "");
}

TEST(Tokenizer, TokenBytesOfPiecesKeepBlanksAndBytes) {
  json file = small_file();
  file["model"]["vocab"] = {{"<unk>", 0}, {"\u2581a", 1}, {"<0xE4>", 2}, {"a", 3}};
  file["model"]["merges"] = json::array();
  file["added_tokens"] = nullptr;
  file["pre_tokenizer"] = nullptr;
  const json replace = {{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}};
  const json strip = {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}};
  file["decoder"] = {{"type", "Sequence"},
                     {"decoders", json::array({replace, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}, strip})}};
  const Tokenizer tokenizer = parse(file);
  EXPECT_EQ(tokenizer.token_bytes(1), " a");  // inside a text the blank stays
  EXPECT_EQ(tokenizer.token_bytes(2), "\xE4");
  EXPECT_EQ(value_or_throw(tokenizer.decode(std::vector<int32_t>{1, 3, 2})), "aa\uFFFD");
}

TEST(Tokenizer, AddedTokenErrors) {
  auto added = [](int id, const char* content) {
    return [=](json& file) {
      json token = file["added_tokens"][0];
      token["id"] = id;
      token["content"] = content;
      file["added_tokens"].push_back(token);
    };
  };
  EXPECT_THAT(error_of([&](json& file) {
                file["model"]["vocab"].erase("ab");  // a hole, so that the next id is another token's
                file["model"]["merges"] = json::array();
                added(261, "<new>")(file);
              }),
              HasSubstr("added_tokens: '<new>' gets the id 260, which is that of 'abab'"));
  EXPECT_THAT(error_of([](json& file) {
                file["added_tokens"].push_back(file["added_tokens"][0]);
                file["added_tokens"][2]["lstrip"] = true;
              }),
              HasSubstr("'<s>' appears twice, in different ways"));
  EXPECT_THAT(error_of(added(-3, "x")), HasSubstr("added_tokens[2]: id: got -3, wanted an integer in [0, "));
  EXPECT_THAT(error_of([](json& file) { file["added_tokens"][0].erase("special"); }),
              HasSubstr("added_tokens[0]: special: missing"));
  EXPECT_THAT(error_of([](json& file) { file["added_tokens"] = 7; }), HasSubstr("got number, wanted an array"));
}

TEST(Tokenizer, PostProcessorIdsAreChecked) {
  const json piece_a = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const json piece_s = {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}};
  auto with = [](json single, json ids) {
    return [=](json& file) {
      file["post_processor"] = {{"type", "TemplateProcessing"},
                                {"single", single},
                                {"pair", json::array()},
                                {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", ids}, {"tokens", {"<s>"}}}}}}};
    };
  };
  EXPECT_THAT(error_of(with({piece_s, piece_a}, {261})),
              HasSubstr("special_tokens.<s>.ids[0]: got 261, wanted an integer in [0, 260]"));
  EXPECT_THAT(error_of(with({piece_s, piece_a}, {-1})), HasSubstr("ids[0]: got -1"));
  EXPECT_THAT(error_of(with({piece_s}, {0})), HasSubstr("template names A 0 times"));
  EXPECT_THAT(error_of(with({piece_a, {{"SpecialToken", {{"id", "<x>"}}}}}, {0})),
              HasSubstr("special_tokens.<x>.ids: missing"));
  json file = small_file();
  with({piece_s, piece_a, piece_s}, {0, 1})(file);
  EXPECT_THAT(value_or_throw(parse(file).encode("ab", true)), ElementsAre(0, 1, 258, 0, 1));
  EXPECT_THAT(value_or_throw(parse(file).encode("ab", false)), ElementsAre(258));
}

TEST(Tokenizer, AMillionEqualBytesAreOneFastWord) {
  const Tokenizer tokenizer = parse(small_file());
  std::string text;
  for (int i = 0; i < 500'000; ++i) text += "ab";
  EXPECT_EQ(value_or_throw(tokenizer.encode(text)).size(), 250'000u);
  EXPECT_EQ(value_or_throw(tokenizer.encode(std::string(1'000'000, 'a'))).size(), 1'000'000u);
}

TEST(Tokenizer, ThreadsShareOneAndItsCache) {
  json file = small_file();
  file["pre_tokenizer"]["use_regex"] = true;
  const Tokenizer tokenizer = parse(file);
  std::string text;
  for (int i = 0; i < 3000; ++i) text += fmt::format("abab word{} ", i % 700);
  const auto want = value_or_throw(parse(file).encode(text));
  std::vector<std::thread> threads;
  std::vector<std::vector<int32_t>> got(4);
  for (auto& ids : got) threads.emplace_back([&] { ids = value_or_throw(tokenizer.encode(text)); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& ids : got) EXPECT_EQ(ids, want);
}

}  // namespace
}  // namespace engram
