// Documents, prepare and synthetic text: rules by example, equality whatever the threads and pieces, bad input.
#include "engram/data/prepare.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "engram/core/json.h"
#include "engram/data/documents.h"
#include "engram/data/synthetic_text.h"
#include "tests/data/data_test.h"
#include "tests/fault_env.h"

namespace engram {
namespace {

using Views = std::vector<std::string_view>;

TEST(SplitDocuments, Auto) {
  EXPECT_EQ(split_documents("one\ntwo\n", "auto"), (Views{"one\ntwo"}));
  EXPECT_EQ(split_documents("a\n<|endoftext|>\nb\n\n<|endoftext|>\n", "auto"), (Views{"a", "b"}));
  EXPECT_EQ(split_documents("a\r\n<|endoftext|>\r\nb\r\n\f\nc", "auto"), (Views{"a", "b", "c"}));
  EXPECT_EQ(split_documents("a <|endoftext|>\nb", "auto"), (Views{"a <|endoftext|>\nb"}));
  EXPECT_EQ(split_documents("\fa\n\f b\n", "auto"), (Views{"\fa\n\f b"}));
  EXPECT_EQ(split_documents("\n\n  a \n\n\nb\n", "auto"), (Views{"  a \n\n\nb"}));
  EXPECT_EQ(split_documents("\xEF\xBB\xBF"
                            "a",
                            "auto"),
            (Views{"a"}));
  EXPECT_TRUE(split_documents("", "auto").empty());
  EXPECT_TRUE(split_documents(" \n\t\n<|endoftext|>\n\xC2\xA0\n", "auto").empty());
}

TEST(SplitDocuments, OtherRules) {
  EXPECT_EQ(split_documents("a\n\nb\nc\n \t\n\n\nd\n", "blank-line"), (Views{"a", "b\nc", "d"}));
  EXPECT_EQ(split_documents("a\n<|endoftext|>\n\nb\n", "none"), (Views{"a\n<|endoftext|>\n\nb"}));
  EXPECT_EQ(split_documents("a\n***\nb\n****\nc\n***", "***"), (Views{"a", "b\n****\nc"}));
}

TEST(SplitPieces, CutsBehindSingleLineFeedsOnly) {
  std::string json = Tokenizer::byte_level_json({"<|endoftext|>"});
  const std::string words = "\"use_regex\": false";
  for (size_t at; (at = json.find(words)) != std::string::npos;) json.replace(at, words.size(), "\"use_regex\": true");
  const TextCuts cuts(value_or_throw(Tokenizer::parse(json, "words")));
  EXPECT_EQ(split_pieces("ab\ncd\nef", 1, cuts), (Views{"ab\n", "cd\n", "ef"}));
  EXPECT_EQ(split_pieces("ab\ncd\nef", 3, cuts), (Views{"ab\ncd\n", "ef"}));
  EXPECT_EQ(split_pieces("ab\n\ncd\n ef\t\ngh\n", 0, cuts), (Views{"ab\n\ncd\n ef\t\ngh\n"}));
  EXPECT_EQ(split_pieces("\xE4\xBA\x8C\n\xE4\xBA\x8C\n\xE3\x80\x80\xE4\xBA\x8C", 0, cuts),
            (Views{"\xE4\xBA\x8C\n", "\xE4\xBA\x8C\n\xE3\x80\x80\xE4\xBA\x8C"}));  // U+3000 is white space
  EXPECT_EQ(split_pieces("", 1, cuts), (Views{""}));
  EXPECT_EQ(split_pieces("\na", 0, cuts), (Views{"\na"}));
  EXPECT_EQ(split_pieces("a\n", 0, cuts), (Views{"a\n"}));
}

class PrepareTest : public DataTest {
 protected:
  PrepareTest()
      : tokenizer_(value_or_throw(Tokenizer::parse(Tokenizer::byte_level_json({"<|endoftext|>"}), "bytes"))) {}

  PrepareOptions options(const std::string& output) const {
    PrepareOptions options;
    options.files = {path("a.txt"), path("b.txt")};
    options.output_directory = path(output);
    options.validation_fraction = 0.3;
    return options;
  }
  // 200 synthetic documents in two files.
  std::vector<std::string> write_texts() const {
    std::vector<std::string> documents;
    std::string texts[2];
    for (int i = 0; i < 200; ++i) {
      documents.push_back(synthetic_document(5, i));
      texts[i / 100] += documents.back() + "\n<|endoftext|>\n";
    }
    write("a.txt", texts[0]);
    write("b.txt", texts[1]);
    return documents;
  }
  std::vector<std::string> read_documents(const std::string& name) const {
    const TokenShard shard = value_or_throw(TokenShard::open(Env::posix(), path(name)));
    std::vector<std::string> documents;
    const auto starts = shard.document_starts();
    for (size_t d = 0; d < starts.size(); ++d) {
      const int64_t end = d + 1 < starts.size() ? starts[d + 1] : shard.info().num_tokens;
      std::vector<int32_t> ids(static_cast<size_t>(end - starts[d]));
      shard.copy_tokens(starts[d], ids);
      EXPECT_EQ(ids.back(), tokenizer_.token_id("<|endoftext|>"));
      ids.pop_back();
      documents.push_back(value_or_throw(tokenizer_.decode(ids)));
    }
    return documents;
  }
  std::string error(const PrepareOptions& options) const {
    const auto summary = prepare_shards(Env::posix(), tokenizer_, options);
    EXPECT_FALSE(summary.ok());
    EXPECT_FALSE(Env::posix().file_exists(options.output_directory + "/train.tokens"));
    EXPECT_FALSE(Env::posix().file_exists(options.output_directory + "/train.tokens.tmp"));
    return summary.status().message();
  }

  const Tokenizer tokenizer_;
};

TEST_F(PrepareTest, EveryDocumentGoesToOneSideInOrder) {
  const auto documents = write_texts();
  const PrepareSummary summary = value_or_throw(prepare_shards(Env::posix(), tokenizer_, options("out")));
  const auto train = read_documents("out/train.tokens"), validation = read_documents("out/validation.tokens");
  std::vector<std::string> wanted_train, wanted_validation;
  int64_t raw_bytes = 0;
  for (const std::string& document : documents) {
    (is_validation_document(document, 0.3) ? wanted_validation : wanted_train).push_back(document);
    raw_bytes += static_cast<int64_t>(document.size());
  }
  EXPECT_EQ(train, wanted_train);
  EXPECT_EQ(validation, wanted_validation);
  EXPECT_NEAR(static_cast<double>(validation.size()), 60, 20);
  EXPECT_EQ(summary.train.raw_bytes + summary.validation.raw_bytes, raw_bytes);
  EXPECT_EQ(summary.train.num_tokens + summary.validation.num_tokens, raw_bytes + 200);  // bytes and ends
  EXPECT_EQ(summary.train.vocabulary_digest, tokenizer_.vocabulary_digest());
  const auto json = value_or_throw(read_json_file(Env::posix(), path("out/prepare.json")));
  EXPECT_EQ(json["train"]["documents"], wanted_train.size());
  EXPECT_EQ(json["validation"]["tokens"], summary.validation.num_tokens);
  EXPECT_EQ(json["end_of_text_id"], summary.end_of_text_id);
  EXPECT_EQ(json.dump().find(folder_), std::string::npos);  // no paths
}

TEST_F(PrepareTest, ThreadsAndPiecesDoNotChangeTheOutput) {
  write_texts();
  (void)value_or_throw(prepare_shards(Env::posix(), tokenizer_, options("out")));
  for (const int threads : {1, 2, 7}) {
    for (const size_t piece_bytes : {size_t{1}, size_t{200}, size_t{1} << 20}) {
      PrepareOptions other = options("other");
      other.threads = threads;
      other.piece_bytes = piece_bytes;
      (void)value_or_throw(prepare_shards(Env::posix(), tokenizer_, other));
      for (const char* name : {"train.tokens", "validation.tokens", "prepare.json"})
        EXPECT_TRUE(contents_of(fmt::format("out/{}", name)) == contents_of(fmt::format("other/{}", name))) << name;
    }
  }
}

// Copies of a text stay together, and a document's side does not depend on its company. The digest of "abc" is
// FIPS 180-4's: ba7816bf..., so its fraction is 0xba7816bf / 2^32 = .7284.
TEST_F(PrepareTest, SideDependsOnTheTextOnly) {
  EXPECT_FALSE(is_validation_document("abc", 0.7283));
  EXPECT_TRUE(is_validation_document("abc", 0.7285));
  EXPECT_FALSE(is_validation_document("abc", 0.0));
  int count = 0;
  for (int i = 0; i < 10000; ++i) count += is_validation_document(std::to_string(i), 0.1);
  EXPECT_NEAR(count, 1000, 150);
}

TEST_F(PrepareTest, EndOfTextToken) {
  const auto parse = [](const std::vector<std::string>& special) {
    return value_or_throw(Tokenizer::parse(Tokenizer::byte_level_json(special), "bytes"));
  };
  EXPECT_EQ(find_end_of_text_token(parse({})), -1);
  const Tokenizer two = parse({"</s>", "<|endoftext|>"});
  EXPECT_EQ(find_end_of_text_token(two), two.token_id("<|endoftext|>"));

  write_texts();
  PrepareOptions chosen = options("out");
  chosen.end_of_text_token = "</s>";
  const PrepareSummary summary = value_or_throw(prepare_shards(Env::posix(), two, chosen));
  EXPECT_EQ(summary.end_of_text_id, two.token_id("</s>"));
  chosen.end_of_text_token = "<none>";
  EXPECT_EQ(prepare_shards(Env::posix(), two, chosen).status().message(), "the tokenizer has no token \"<none>\"");
}

TEST_F(PrepareTest, BadInputIsOneClearError) {
  write_texts();
  write("b.txt", std::string("good text\nbad \xFF text"));
  EXPECT_EQ(error(options("out")),
            path("b.txt") + ": not UTF-8 at byte 14 (0xff); convert the file first, for example with iconv");
  write("a.txt", "");
  write("b.txt", "\n<|endoftext|>\n \n");
  EXPECT_TRUE(error(options("out")).starts_with("no text: " + path("a.txt"))) << error(options("out"));
  PrepareOptions none = options("out");
  none.files = {};
  EXPECT_TRUE(error(none).starts_with("no text"));
  none.files = {path("missing.txt")};
  EXPECT_NE(error(none).find("missing.txt"), std::string::npos);

  write("a.txt", "abc");
  PrepareOptions fraction = options("out");
  fraction.files = {path("a.txt")};
  fraction.validation_fraction = 0.8;
  EXPECT_NE(error(fraction).find("every document fell into validation"), std::string::npos);
  for (const double bad : {-0.1, 1.0, std::nan("")}) {
    fraction.validation_fraction = bad;
    EXPECT_NE(error(fraction).find("validation_fraction is"), std::string::npos);
  }
}

// A failed run leaves each output as it was, or complete; never half of one.
TEST_F(PrepareTest, WriteFaultsLeaveNoHalfFile) {
  write_texts();
  PrepareOptions first = options("out");
  first.files = {path("a.txt")};
  FaultyEnv counting(Env::posix());
  (void)value_or_throw(prepare_shards(Env::posix(), tokenizer_, first));
  (void)value_or_throw(prepare_shards(counting, tokenizer_, options("full")));
  for (int64_t n = 0; n < counting.changes(); ++n) {
    (void)value_or_throw(prepare_shards(Env::posix(), tokenizer_, first));
    const auto old_bytes = contents_of("out/train.tokens");
    FaultyEnv env(Env::posix(), {.fail_change = n});
    EXPECT_FALSE(prepare_shards(env, tokenizer_, options("out")).ok()) << n;
    const auto bytes = contents_of("out/train.tokens");
    EXPECT_TRUE(bytes == old_bytes || bytes == contents_of("full/train.tokens")) << n;
    EXPECT_EQ(value_or_throw(Env::posix().list_directory(path("out"))),
              (std::vector<std::string>{"prepare.json", "train.tokens", "validation.tokens"}))
        << n;
  }
}

TEST(SyntheticText, IsAPureFunctionAndRecurs) {
  std::set<std::string> documents;
  int64_t bytes = 0;
  std::string all;
  for (int i = 0; i < 500; ++i) {
    const std::string text = synthetic_document(1, i);
    EXPECT_EQ(text, synthetic_document(1, i));
    EXPECT_GT(text.size(), 150u);
    EXPECT_LT(text.size(), 2500u);
    EXPECT_TRUE(std::all_of(text.begin(), text.end(), [](char c) { return c == '\n' || (c >= ' ' && c <= '~'); }));
    documents.insert(text);
    bytes += static_cast<int64_t>(text.size());
    all += text;
  }
  EXPECT_GT(documents.size(), 495u);
  EXPECT_NE(synthetic_document(1, 0), synthetic_document(2, 0));
  size_t mentions = 0;
  for (size_t at = 0; (at = all.find("Silver Thread", at)) != std::string::npos; ++at) ++mentions;
  EXPECT_GT(mentions, 50u);
  EXPECT_GT(bytes, 500 * 300);
}

TEST_F(DataTest, SyntheticCorpusIsReadyForTheLoader) {
  throw_if_error(make_synthetic_corpus(Env::posix(), path("a"), 50, 3));
  throw_if_error(make_synthetic_corpus(Env::posix(), path("b"), 50, 3));
  const Tokenizer tokenizer = value_or_throw(Tokenizer::load(Env::posix(), path("a/tokenizer.json")));
  for (const char* name : {"train.tokens", "validation.tokens"}) {
    const TokenShard shard = value_or_throw(TokenShard::open(Env::posix(), path(fmt::format("a/{}", name))));
    EXPECT_EQ(shard.info().vocabulary_digest, tokenizer.vocabulary_digest());
    EXPECT_EQ(shard.info().num_documents, name == std::string("train.tokens") ? 45 : 5);
    EXPECT_TRUE(contents_of(fmt::format("a/{}", name)) == contents_of(fmt::format("b/{}", name)));
  }
  EXPECT_EQ(make_synthetic_corpus(Env::posix(), path("c"), 9, 3).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(make_synthetic_corpus(Env::posix(), path("c"), 10, -1).code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace engram
