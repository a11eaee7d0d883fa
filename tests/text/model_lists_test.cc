#include "engram/text/model_lists.h"

#include <gtest/gtest.h>

#include "engram/core/json.h"
#include "engram/text/bpe.h"
#include "engram/text/token_index.h"
#include "engram/text/tokenizer.h"

namespace engram {
namespace {

using nlohmann::json;

// True when the reader takes the text; then it holds what a DOM of the text holds.
bool takes(const std::string& text) {
  const auto split = split_tokenizer_file(text);
  if (!split) return false;
  const Result<json> whole = parse_json(text, "whole"), rest = parse_json(split->rest, "rest");
  EXPECT_EQ(whole.ok(), rest.ok()) << text;
  if (!whole.ok()) return true;
  json built = *rest;
  EXPECT_EQ(json::object(), built.at("model").at("vocab"));
  EXPECT_EQ(json::array(), built.at("model").at("merges"));
  for (const auto& token : split->lists.vocabulary) built["model"]["vocab"][std::string(token.text)] = token.id;
  for (const auto& merge : split->lists.merges)
    built["model"]["merges"].push_back(json::array({std::string(merge.left), std::string(merge.right)}));
  json wanted = *whole;
  for (json& merge : wanted["model"]["merges"]) {
    if (!merge.is_string()) continue;
    const auto line = merge.get<std::string>();
    const size_t blank = line.find(' ');
    merge = json::array({line.substr(0, blank), line.substr(blank + 1)});
  }
  EXPECT_EQ(wanted, built) << text;
  return true;
}

std::string file(const std::string& vocab, const std::string& merges, const std::string& more = "") {
  return R"({"version": "1.0", "model": {"type": "BPE", "vocab": )" + vocab + R"(, "merges": )" + merges + "}" + more +
         "}";
}

TEST(ModelLists, TakesWhatFilesLookLike) {
  EXPECT_TRUE(takes(Tokenizer::byte_level_json({"<s>", "</s>"})));
  EXPECT_TRUE(takes(file(R"({"a": 0, "b": 1, "ab": 2})", R"(["a b"])")));
  EXPECT_TRUE(takes(file(R"({"a":0,"b":1,"ab":2})", R"([["a","b"] , [ "ab" , "a" ]])")));
  EXPECT_TRUE(takes(file("{}", "[]")));
  EXPECT_TRUE(takes(file(" { } ", " [ ] ", R"(, "x": [1, {"y": "]}"}, -2.5e3, null, "\" } ] "])")));
  EXPECT_TRUE(takes(file(R"({"\"": 0, "\\": 1, "\u0120\n": 2, "é": 3, "\/": 4})", R"(["\" \\"])")));
  EXPECT_TRUE(takes("\n\t " + file("{}", "[]") + " \r\n"));
  EXPECT_TRUE(takes(R"({"model": {"merges": ["a b"], "vocab": {"a": 2147483646}}, "model2": {"vocab": []}})"));
}

TEST(ModelLists, LeavesTheRestToTheDom) {
  for (const char* vocab : {R"({"a": -1})",
                            R"({"a": 1.0})",
                            R"({"a": 1e2})",
                            R"({"a": 01})",
                            R"({"a": 2147483647})",
                            R"({"a": "1"})",
                            R"({"a": null})",
                            R"({"a": [1]})",
                            R"({"a" 1})",
                            R"({"a": 1,})",
                            R"({a: 1})",
                            R"({"\ud83d\ude42": 1})",
                            R"({"\x": 1})",
                            R"({"\u12": 1})",
                            "{\"a\n\": 1}",
                            "{\"\xff\": 1}",
                            "[]",
                            "null",
                            R"({"a": 1)",
                            R"({"a)",
                            "{"}) {
    EXPECT_FALSE(takes(file(vocab, "[]"))) << vocab;
  }
  for (const char* merges : {R"([1])", R"(["a"])", R"(["a b c"])", R"([["a"]])", R"([["a","b","c"]])", R"([["a",1]])",
                             R"(["a b",])", R"(["a b" "c d"])", "{}", "null", R"(["a b")", "["}) {
    EXPECT_FALSE(takes(file("{}", merges))) << merges;
  }
  for (const char* text : {"", "[]", "{}", "null", R"({"model": {"vocab": {}}})", R"({"model": {"merges": []}})",
                           R"({"model": {"vocab": {}, "merges": [], "vocab": {}}})", R"({"vocab": {}, "merges": []})",
                           R"({"model": {"vocab": {}, "merges": []}} x)"}) {
    EXPECT_FALSE(takes(text)) << text;
  }
}

// What is not JSON stays not JSON.
TEST(ModelLists, RestIsJsonWhenTheTextIs) {
  EXPECT_TRUE(takes(file("{}", "[]",
                         R"(, "x": [1, 2)"
                         "}")));
  EXPECT_TRUE(takes(file("{}", "[]", R"(, "x": nul)")));
  EXPECT_TRUE(takes(file("{}", "[]", R"(, "x": [1 2])")));
  EXPECT_TRUE(takes(file("{}", "[]", R"(, "model": {})")));
}

TEST(ModelLists, HeaderLinesAreNoMerges) {
  const std::string text = file(R"({"a": 0})", R"(["#version: 0.2", "a b"])");
  const auto split = split_tokenizer_file(text);
  ASSERT_TRUE(split);
  ASSERT_EQ(1u, split->lists.merges.size());
  EXPECT_EQ(1u, split->lists.merges[0].index);
}

TEST(TokenIndex, FindsWhatWasAdded) {
  TokenIndex index;
  EXPECT_EQ(-1, index.find(""));
  for (int i = 0; i < 1000; ++i) {
    EXPECT_EQ(std::pair(i, true), index.add(std::to_string(i)));
    EXPECT_EQ(std::pair(i / 2, false), index.add(std::to_string(i / 2)));
  }
  EXPECT_EQ(std::pair(1000, true), index.add(""));
  EXPECT_EQ(1001u, index.size());
  EXPECT_EQ(-1, index.find("1000"));
  EXPECT_EQ(999, index.find("999"));
  EXPECT_EQ("77", index[77]);
}

}  // namespace
}  // namespace engram
