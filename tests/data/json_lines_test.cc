// JSON lines: what a line may be, and how prepare tells the part that is to be learned.
#include "engram/data/json_lines.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "engram/data/prepare.h"
#include "tests/data/data_test.h"

namespace engram {
namespace {

std::string error_of(const std::string& text, const std::string& field = "text") {
  const auto read = read_json_lines(text, "f.jsonl", field);
  return read.ok() ? "" : read.status().message();
}

TEST(JsonLines, AreTextsOrPromptsWithAnswers) {
  const auto documents = value_or_throw(
      read_json_lines("\xEF\xBB\xBF{\"text\": \"one\\n\", \"id\": [7]}\r\n\n  \t\n{\"text\": \" \"}\n"
                      "{\"answer\": \"\\u00e9\", \"prompt\": \"two \"}\n{\"prompt\": \"\", \"answer\": \"three\"}",
                      "f.jsonl", "text"));
  EXPECT_EQ(documents, (std::vector<JsonDocument>{{"one\n", 0}, {"two \xC3\xA9", 4}, {"three", 0}}));
  EXPECT_EQ(value_or_throw(read_json_lines("{\"body\": \"x\"}", "f", "body"))[0].text, "x");
  EXPECT_TRUE(value_or_throw(read_json_lines("", "f", "text")).empty());
}

TEST(JsonLines, ABadLineIsNamed) {
  const std::string good = "{\"text\": \"a\"}\n";
  EXPECT_EQ(error_of(good + "{\"title\": \"a\"}"),
            "f.jsonl:2: got neither, wanted \"text\", or \"prompt\" and \"answer\"");
  EXPECT_EQ(error_of("{\"text\": \"a\"}", "body"),
            "f.jsonl:1: got neither, wanted \"body\", or \"prompt\" and \"answer\"");
  EXPECT_EQ(error_of("\n{\"text\": \"a\", \"prompt\": \"b\"}"),
            "f.jsonl:2: got both, wanted \"text\", or \"prompt\" and \"answer\"");
  EXPECT_EQ(error_of("{\"prompt\": \"a\"}"), "f.jsonl:1: answer: missing");
  EXPECT_EQ(error_of("{\"answer\": \"a\"}"), "f.jsonl:1: prompt: missing");
  EXPECT_EQ(error_of("{\"text\": 5}"), "f.jsonl:1: text: got 5, wanted a string");
  EXPECT_EQ(error_of("{\"prompt\": \"a\", \"answer\": [\"b\"]}").substr(0, 24), "f.jsonl:1: answer: got a");
  EXPECT_EQ(error_of("{\"prompt\": \"a\", \"answer\": \"\"}"), "f.jsonl:1: answer: got an empty string, wanted a text");
  EXPECT_EQ(error_of("[1]").substr(0, 15), "f.jsonl:1: got ");
  EXPECT_EQ(error_of(good + good + "{\"text\": \"a\xFF\"}"),
            "f.jsonl:3: got a byte 0xff at 11 of the line, wanted UTF-8");
  for (const std::string bad :
       {"{\"text\": \"a\"", "text", "{\"text\": \"a\"} {}", "{\"text\": \"a\", \"text\": \"b\"}"}) {
    EXPECT_TRUE(error_of(good + bad).starts_with("f.jsonl:2: ")) << error_of(good + bad);
    EXPECT_EQ(error_of(good + bad).find('\n'), std::string::npos);
  }
  std::string deep = "{\"x\": " + std::string(5000, '[') + std::string(5000, ']') + ", \"text\": \"a\"}";
  EXPECT_NE(error_of(deep).find("nested deeper"), std::string::npos);
}

class PrepareJsonTest : public DataTest {
 protected:
  Result<PrepareSummary> prepare(const std::string& contents, double fraction = 0) const {
    write("a.jsonl", contents);
    PrepareOptions options;
    options.files = {path("a.jsonl")};
    options.output_directory = path("out");
    options.validation_fraction = fraction;
    options.piece_bytes = 16;
    return prepare_shards(Env::posix(), tokenizer_, options);
  }
  // Of train.tokens; a token that does not count is a dot, an end of text a bar.
  std::string counted() const {
    const TokenShard shard = value_or_throw(TokenShard::open(Env::posix(), path("out/train.tokens")));
    std::vector<int32_t> targets(static_cast<size_t>(shard.info().num_tokens));
    shard.copy_targets(0, targets);
    std::string text;
    for (const int32_t id : targets)
      text += id < 0 ? "." : tokenizer_.is_special(id) ? "|" : tokenizer_.token_bytes(id);
    return text;
  }
  const Tokenizer tokenizer_ = value_or_throw(Tokenizer::parse(Tokenizer::byte_level_json({"<|endoftext|>"}), "bytes"));
};

TEST_F(PrepareJsonTest, OnlyAnswersCount) {
  const auto summary =
      value_or_throw(prepare("{\"prompt\": \"ab\", \"answer\": \"cde\"}\n{\"text\": \"fg\"}\n{\"prompt\": \"a question "
                             "longer than a piece\\n\", "
                             "\"answer\": \"\\n\"}"));
  EXPECT_EQ(counted(), "..cde|fg|" + std::string(31, '.') + "\n|");
  EXPECT_TRUE(summary.train.masked);
  EXPECT_EQ(summary.train.counted_tokens, 4 + 3 + 2);
  EXPECT_EQ(summary.train.counted_bytes, 6);
  EXPECT_EQ(summary.train.raw_bytes, 5 + 2 + 32);
  EXPECT_EQ(summary.validation.num_documents, 0);
  EXPECT_NE(contents_of("out/prepare.json").find("\"counted_tokens\": 9"), std::string::npos);
}

TEST_F(PrepareJsonTest, TextsAloneAreTheShardOfTheirText) {
  (void)value_or_throw(prepare("{\"text\": \"one two three four five six\"}\n{\"text\": \"x\"}\n"));
  const std::string lines = contents_of("out/train.tokens");
  write("b.txt", "one two three four five six\n<|endoftext|>\nx\n");
  PrepareOptions options;
  options.files = {path("b.txt")};
  options.output_directory = path("plain");
  options.validation_fraction = 0;
  (void)value_or_throw(prepare_shards(Env::posix(), tokenizer_, options));
  EXPECT_TRUE(lines == contents_of("plain/train.tokens"));
}

// The masks of both sides are their own: a side without an answer has none.
TEST_F(PrepareJsonTest, WholeDocumentsGoToValidation) {
  std::string lines;
  for (int i = 0; i < 100; ++i) lines += fmt::format("{{\"prompt\": \"what is {0}?\", \"answer\": \" {0}\"}}\n", i);
  const auto summary = value_or_throw(prepare(lines, 0.3));
  EXPECT_EQ(summary.train.num_documents + summary.validation.num_documents, 100);
  EXPECT_NEAR(static_cast<double>(summary.validation.num_documents), 30, 15);
  EXPECT_TRUE(summary.validation.masked);
  int64_t validation = 0;
  for (int i = 0; i < 100; ++i) validation += is_validation_document(fmt::format("what is {0}? {0}", i), 0.3);
  EXPECT_EQ(summary.validation.num_documents, validation);
}

TEST_F(PrepareJsonTest, ABadLineWritesNothing) {
  const Status status = prepare("{\"text\": \"a\"}\n{\"prompt\": \"a\"}\n").status();
  EXPECT_EQ(status.message(), path("a.jsonl") + ":2: answer: missing");
  EXPECT_FALSE(Env::posix().file_exists(path("out")));
}

// A token that spans both belongs to the answer.
TEST_F(PrepareJsonTest, ATokenOfBothIsLearned) {
  nlohmann::json file = nlohmann::json::parse(Tokenizer::byte_level_json({"<|endoftext|>"}));
  file["model"]["vocab"]["bc"] = 257;
  file["model"]["merges"] = {"b c"};
  const Tokenizer merging = value_or_throw(Tokenizer::parse(file.dump(), "merging"));
  write("a.jsonl", "{\"prompt\": \"ab\", \"answer\": \"cd\"}");
  PrepareOptions options;
  options.files = {path("a.jsonl")};
  options.output_directory = path("out");
  options.validation_fraction = 0;
  const auto summary = value_or_throw(prepare_shards(Env::posix(), merging, options));
  EXPECT_EQ(summary.train.num_tokens, 4);
  EXPECT_EQ(summary.train.counted_tokens, 3);  // bc, d and the end
  EXPECT_EQ(summary.train.counted_bytes, 2);
}

}  // namespace
}  // namespace engram
