// Packed text as gzip and zstd themselves make it, in several members too; damage at every byte.
#include "engram/data/compressed_text.h"

#include <cstdlib>

#include "engram/data/prepare.h"
#include "tests/data/data_test.h"

namespace engram {
namespace {

class CompressedText : public DataTest {
 protected:
  // tool FILE -> FILE.gz or FILE.zst, and its bytes.
  std::string pack(const std::string& tool, const std::string& text) const {
    const std::string name = "text", ending = tool == "gzip" ? ".gz" : ".zst";
    write(name, text);
    const std::string command = fmt::format("{} -q -f -k '{}'", tool, path(name));
    if (std::system(command.c_str()) != 0) throw std::runtime_error(command);
    return contents_of(name + ending);
  }
  static Result<std::string> unpack(const std::string& bytes, const std::string& tool, size_t most = 1 << 26) {
    return decompress(std::as_bytes(std::span(bytes)), tool == "gzip" ? "t.gz" : "t.zst", most);
  }
};

TEST_F(CompressedText, IsWhatTheToolsPacked) {
  std::string text;
  for (int64_t i = 0; i < 400000; ++i) text += fmt::format("line {}\n", i * 7919 % 100003);
  for (const std::string tool : {"gzip", "zstd"}) {
    const std::string packed = pack(tool, text), small = pack(tool, "small");
    EXPECT_LT(packed.size(), text.size() / 2);
    EXPECT_TRUE(value_or_throw(unpack(packed, tool)) == text);
    EXPECT_TRUE(value_or_throw(unpack(small + packed + small, tool)) == "small" + text + "small");
    EXPECT_EQ(value_or_throw(unpack(pack(tool, ""), tool)), "");
    const Status large = unpack(packed, tool, text.size() - 1).status();
    EXPECT_EQ(large.code(), StatusCode::kResourceExhausted) << large.message();
    for (const size_t cut : {size_t{5}, small.size() / 2, small.size() - 1})
      EXPECT_EQ(unpack(small.substr(0, cut), tool).status().code(), StatusCode::kDataLoss) << tool << ' ' << cut;
    EXPECT_EQ(unpack(packed.substr(0, packed.size() / 2), tool).status().code(), StatusCode::kDataLoss);
    EXPECT_FALSE(unpack(small + "tail", tool).ok());
    EXPECT_EQ(unpack("plain", tool).status().message(),
              fmt::format("t.{}: got other bytes, wanted a file made by {}", tool == "gzip" ? "gz" : "zst", tool));
    for (size_t at = 2; at < small.size(); ++at) {
      std::string bad = small;
      bad[at] = static_cast<char>(bad[at] ^ 0x55);
      (void)unpack(bad, tool);  // another text or an error, no crash
    }
  }
}

TEST_F(CompressedText, IsPreparedAsThePlainFileIs) {
  const Tokenizer tokenizer = value_or_throw(Tokenizer::parse(Tokenizer::byte_level_json({"<|endoftext|>"}), "bytes"));
  const std::string lines = "{\"text\": \"one\"}\n{\"text\": \"two\"}\n{\"text\": \"one\"}\n{\"text\": \"three\"}\n";
  write("a.jsonl", lines);
  write("a.jsonl.gz", pack("gzip", lines));
  write("a.jsonl.zst", pack("zstd", lines));
  PrepareOptions options;
  options.validation_fraction = 0.3;
  const auto prepare = [&](const std::string& name) {
    options.files = {path(name)};
    options.output_directory = path(name + ".out");
    return value_or_throw(prepare_shards(Env::posix(), tokenizer, options));
  };
  for (const char* name : {"a.jsonl", "a.jsonl.gz", "a.jsonl.zst"}) {
    const PrepareSummary summary = prepare(name);
    EXPECT_EQ(summary.repeated_documents, 1);
    EXPECT_EQ(summary.repeated_bytes, 3);
    EXPECT_EQ(summary.train.num_documents + summary.validation.num_documents, 4);
    for (const char* shard : {"/train.tokens", "/validation.tokens"})
      EXPECT_TRUE(contents_of(std::string(name) + ".out" + shard) == contents_of(std::string("a.jsonl.out") + shard));
  }
  options.deduplicate = true;
  const PrepareSummary once = prepare("a.jsonl");
  EXPECT_EQ(once.train.num_documents + once.validation.num_documents, 3);
  EXPECT_EQ(once.repeated_documents, 1);
  EXPECT_EQ(once.repeated_bytes, 3);
}

// Ids go through as they are; bits per byte needs the bytes that they stand for.
TEST_F(CompressedText, TokenFilesArePreparedToo) {
  const Tokenizer tokenizer = value_or_throw(Tokenizer::parse(Tokenizer::byte_level_json({"<|endoftext|>"}), "bytes"));
  const int32_t end = find_end_of_text_token(tokenizer);
  std::string file;
  const auto put = [&](const auto& value) { file.append(reinterpret_cast<const char*>(&value), sizeof value); };
  for (const int32_t number : {20240520, 1, 7}) put(number);
  file.resize(1024);
  for (const int32_t id : std::vector<int32_t>{end, 'a', 'b', end, 'c', 'd', 'e'}) put(static_cast<uint16_t>(id));
  write("t.bin", file);
  PrepareOptions options;
  options.files = {path("t.bin")};
  options.output_directory = path("out");
  options.validation_fraction = 0;
  const PrepareSummary summary = value_or_throw(prepare_shards(Env::posix(), tokenizer, options));
  EXPECT_EQ(summary.train.raw_bytes, 5);
  const TokenShard shard = value_or_throw(TokenShard::open(Env::posix(), path("out/train.tokens")));
  std::vector<int32_t> ids(static_cast<size_t>(shard.info().num_tokens));
  shard.copy_tokens(0, ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{'a', 'b', end, 'c', 'd', 'e', end}));
}

}  // namespace
}  // namespace engram
