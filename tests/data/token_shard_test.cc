// Token shards: bytes against an image built by hand (docs/formats/token_shard.md), damage, lies, write faults.
#include "engram/data/token_shard.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <random>

#include "tests/data/data_test.h"
#include "tests/fault_env.h"

namespace engram {
namespace {

using ShardTest = DataTest;

// The image of a shard, written down independently of the code under test; every field can be made to lie.
class Image {
 public:
  explicit Image(size_t pages) : bytes_(pages * 4096, '\0') {}
  template <typename T>
  Image& put(size_t at, T value) {
    std::memcpy(bytes_.data() + at, &value, sizeof value);
    return *this;
  }
  Image& put_text(size_t at, const std::string& text) {
    bytes_.replace(at, text.size(), text);
    return *this;
  }
  // CRC-32C of [begin, end), a bit at a time.
  uint32_t crc(size_t begin, size_t end) const {
    uint32_t crc = 0xFFFFFFFFu;
    for (size_t i = begin; i < end; ++i) {
      crc ^= static_cast<uint8_t>(bytes_[i]);
      for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78u : 0u);
    }
    return ~crc;
  }
  // Both pages' checksums and both sections', after which only the fields themselves can be wrong.
  Image& seal(size_t starts_page) {
    const size_t footer = bytes_.size() - 4096;
    put(4092, crc(0, 4092));
    put(footer + 40, crc(4096, starts_page * 4096));
    put(footer + 44, crc(starts_page * 4096, footer));
    return put(footer + 4092, crc(footer, footer + 4092));
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// The worked example of the format's page: documents [7, 1, 2] and [7, 3] of 5 and 4 bytes, 300 tokens in all.
Image example() {
  Image image(4);
  image.put_text(0, "ENGRTOKS").put<uint32_t>(8, 1).put<uint32_t>(12, 2).put<uint32_t>(16, 300);
  image.put_text(24, std::string(32, '\xAA'));
  const uint16_t tokens[] = {7, 1, 2, 7, 3};
  for (size_t i = 0; i < 5; ++i) image.put(4096 + 2 * i, tokens[i]);
  image.put<uint64_t>(8192, 0).put<uint64_t>(8200, 3);
  image.put_text(12288, "ENGRTOKE").put<uint64_t>(12296, 5).put<uint64_t>(12304, 2).put<uint64_t>(12312, 9);
  image.put<uint64_t>(12320, 8192);
  return image.seal(2);
}

// The same with a mask: of the first document the last two tokens count (4 bytes), of the second all (4 bytes).
Image masked_example() {
  Image image(5);
  const std::string plain = example().bytes();
  image.put_text(0, plain.substr(0, 12288)).put_text(16384, plain.substr(12288));
  image.put<uint32_t>(8, 2).put<uint8_t>(12288, 0b11110);
  image.put<uint64_t>(16384 + 56, 4).put<uint64_t>(16384 + 64, 8);
  return image;
}
Image& seal_masked(Image& image) {
  image.put(4092, image.crc(0, 4092)).put(16384 + 48, image.crc(12288, 16384));
  return image.put(16384 + 4092, image.crc(16384, 16384 + 4092));
}

TEST_F(ShardTest, AMaskIsASectionOfVersion2) {
  Image wanted = masked_example();
  seal_masked(wanted);
  auto writer = value_or_throw(TokenShardWriter::create(Env::posix(), path("s"), 300, kDigest, /*masked=*/true));
  throw_if_error(writer->append_document(std::vector<int32_t>{7, 1, 2}, 5, 1, 4));
  throw_if_error(writer->append_document(std::vector<int32_t>{7, 3}, 4));
  EXPECT_EQ(value_or_throw(writer->finish()).counted_tokens, 4);
  EXPECT_TRUE(contents_of("s") == wanted.bytes());

  const TokenShard shard = value_or_throw(TokenShard::open(Env::posix(), path("s")));
  EXPECT_TRUE(shard.info().masked);
  EXPECT_EQ(shard.info().counted_tokens, 4);
  EXPECT_EQ(shard.info().counted_bytes, 8);
  EXPECT_EQ(shard.info().raw_bytes, 9);
  std::vector<int32_t> tokens(5), targets(5), part(2);
  shard.copy_tokens(0, tokens);
  shard.copy_targets(0, targets);
  shard.copy_targets(2, part);
  EXPECT_EQ(tokens, (std::vector<int32_t>{7, 1, 2, 7, 3}));
  EXPECT_EQ(targets, (std::vector<int32_t>{-1, 1, 2, 7, 3}));
  EXPECT_EQ(part, (std::vector<int32_t>{2, 7}));
  const TokenText text = read_shards({&shard, 1});
  EXPECT_EQ(text.targets, targets);
  EXPECT_EQ(text.bytes, 8);

  const TokenShard plain = make_shard("plain", {{7, 1, 2}}, 300);
  EXPECT_FALSE(plain.info().masked);
  EXPECT_EQ(plain.info().counted_tokens, 3);
  EXPECT_EQ(plain.info().counted_bytes, 3);
}

TEST_F(ShardTest, AMaskThatLiesIsRefused) {
  const auto refused = [&](Image image, const std::string& wanted) {
    write("s", seal_masked(image).bytes());
    const Status status = TokenShard::open(Env::posix(), path("s")).status();
    EXPECT_EQ(status.code(), StatusCode::kDataLoss);
    EXPECT_NE(status.message().find(wanted), std::string::npos) << status.message();
  };
  refused(masked_example().put<uint8_t>(12288, 0b111110), "the mask has a bit for token 5 of 5");
  refused(masked_example().put<uint8_t>(12288, 0b1110), "the mask counts 3 tokens, wanted counted_tokens 4");
  refused(masked_example().put<uint64_t>(16384 + 56, 6), "counted_tokens is 6, wanted at most 5");
  refused(masked_example().put<uint64_t>(16384 + 64, 10), "counted_bytes is 10, wanted at most 9");
  refused(masked_example().put<uint32_t>(8, 1), "file has 20480 bytes, wanted 16384");
  Image damaged = masked_example();
  write("s", seal_masked(damaged).put<uint8_t>(12288, 0b11100).bytes());
  EXPECT_NE(TokenShard::open(Env::posix(), path("s")).status().message().find("mask section is damaged"),
            std::string::npos);
  write("s", example().put<uint32_t>(8, 2).seal(2).bytes());
  EXPECT_NE(TokenShard::open(Env::posix(), path("s")).status().message().find("with a mask"), std::string::npos);
}

TEST_F(ShardTest, WriterGivesTheDocumentedBytes) {
  auto writer = value_or_throw(TokenShardWriter::create(Env::posix(), path("s"), 300, kDigest));
  throw_if_error(writer->append_document(std::vector<int32_t>{7, 1, 2}, 5));
  throw_if_error(writer->append_document(std::vector<int32_t>{7, 3}, 4));
  const TokenShardInfo info = value_or_throw(writer->finish());
  EXPECT_EQ(info.num_tokens, 5);
  EXPECT_EQ(info.num_documents, 2);
  EXPECT_EQ(info.raw_bytes, 9);
  EXPECT_TRUE(contents_of("s") == example().bytes());
  EXPECT_EQ(files(), std::vector<std::string>{"s"});
}

TEST_F(ShardTest, ReaderReadsTheDocumentedBytes) {
  write("s", example().bytes());
  const TokenShard shard = value_or_throw(TokenShard::open(Env::posix(), path("s")));
  EXPECT_EQ(shard.path(), path("s"));
  EXPECT_EQ(shard.info().num_tokens, 5);
  EXPECT_EQ(shard.info().num_documents, 2);
  EXPECT_EQ(shard.info().raw_bytes, 9);
  EXPECT_EQ(shard.info().vocab_size, 300);
  EXPECT_EQ(shard.info().vocabulary_digest, kDigest);
  std::vector<int32_t> tokens(5);
  shard.copy_tokens(0, tokens);
  EXPECT_EQ(tokens, (std::vector<int32_t>{7, 1, 2, 7, 3}));
  EXPECT_EQ(std::vector<int64_t>(shard.document_starts().begin(), shard.document_starts().end()),
            (std::vector<int64_t>{0, 3}));
}

TEST_F(ShardTest, RoundTripsBothWidthsAndManyPages) {
  for (const int32_t vocab_size : {65536, 65537, 2000000000}) {
    std::mt19937 random(5);
    Documents documents;
    std::vector<int32_t> all;
    std::vector<int64_t> starts;
    for (int d = 0; d < 300; ++d) {
      std::vector<int32_t> document(1 + random() % 5000);
      for (int32_t& id : document) id = static_cast<int32_t>(random() % static_cast<uint32_t>(vocab_size));
      document[0] = vocab_size - 1;
      starts.push_back(static_cast<int64_t>(all.size()));
      all.insert(all.end(), document.begin(), document.end());
      documents.push_back(std::move(document));
    }
    const TokenShard shard = make_shard("s", documents, vocab_size);
    ASSERT_EQ(shard.info().num_tokens, static_cast<int64_t>(all.size()));
    std::vector<int32_t> tokens(all.size());
    shard.copy_tokens(0, tokens);
    EXPECT_TRUE(tokens == all);
    EXPECT_TRUE(
        std::equal(starts.begin(), starts.end(), shard.document_starts().begin(), shard.document_starts().end()));
    std::vector<int32_t> part(100);
    shard.copy_tokens(12345, part);
    EXPECT_TRUE(std::equal(part.begin(), part.end(), all.begin() + 12345));
  }
}

TEST_F(ShardTest, ShardsReadAsOneText) {
  std::vector<TokenShard> shards;
  shards.push_back(make_shard("a", {{1, 2, 3}, {4, 5}}, 10));
  shards.push_back(make_shard("b", {{6}}, 10));
  const TokenText text = read_shards(shards);
  EXPECT_EQ(text.token_ids, (std::vector<int32_t>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(text.document_starts, (std::vector<int64_t>{0, 3, 5}));
  EXPECT_EQ(text.bytes, 9);
}

TEST_F(ShardTest, AShardMayBeEmpty) {
  const TokenShard shard = make_shard("s", {}, 10);
  EXPECT_EQ(shard.info().num_tokens, 0);
  EXPECT_TRUE(shard.document_starts().empty());
}

TEST_F(ShardTest, EveryFlippedByteIsFound) {
  const size_t size = example().bytes().size();
  write("s", example().bytes());
  std::mt19937 random(9);
  for (size_t byte = 0; byte < size; ++byte) {
    FaultyEnv env(Env::posix(), {.flip_bit = static_cast<int64_t>(byte * 8 + random() % 8)});
    const auto shard = TokenShard::open(env, path("s"));
    ASSERT_FALSE(shard.ok()) << "byte " << byte;
    ASSERT_EQ(shard.status().code(), StatusCode::kDataLoss) << "byte " << byte;
    ASSERT_TRUE(shard.status().message().starts_with(path("s"))) << shard.status().message();
  }
}

TEST_F(ShardTest, EveryTruncationIsFound) {
  write("s", example().bytes());
  for (int64_t size : {0, 1, 8, 4095, 4096, 4097, 8191, 8192, 12288, 16383}) {
    FaultyEnv env(Env::posix(), {.read_bytes = size});
    const auto shard = TokenShard::open(env, path("s"));
    ASSERT_FALSE(shard.ok()) << size;
    EXPECT_EQ(shard.status().code(), StatusCode::kDataLoss) << size;
  }
  write("longer", example().bytes() + std::string(4096, '\0'));
  EXPECT_EQ(TokenShard::open(Env::posix(), path("longer")).status().code(), StatusCode::kDataLoss);
  EXPECT_EQ(TokenShard::open(Env::posix(), path("none")).status().code(), StatusCode::kNotFound);
}

// Fields that are wrong although every checksum is right.
TEST_F(ShardTest, LyingFieldsAreRefused) {
  const auto refused = [&](Image image, const std::string& wanted) {
    write("s", image.seal(2).bytes());
    const auto shard = TokenShard::open(Env::posix(), path("s"));
    ASSERT_FALSE(shard.ok()) << wanted;
    EXPECT_EQ(shard.status().code(), StatusCode::kDataLoss);
    EXPECT_NE(shard.status().message().find(wanted), std::string::npos) << shard.status().message();
  };
  refused(example().put_text(0, "ENGRTABL"), "not a token shard");
  refused(example().put<uint32_t>(8, 3), "version is 3, wanted 1 or 2");
  refused(example().put<uint32_t>(12, 3), "token_bytes is 3, wanted 2 or 4");
  refused(example().put<uint32_t>(16, 0), "vocab_size is 0");
  refused(example().put<uint32_t>(16, 65537), "vocab_size is 65537, wanted 1 to 65536");
  refused(example().put<uint32_t>(16, 7), "token 0 has id 7, wanted below vocab_size 7");
  refused(example().put_text(12288, "ENGRTOKS"), "truncated");
  for (const uint64_t tokens : {uint64_t{4}, uint64_t{2049}, uint64_t{1} << 62, ~uint64_t{0}}) {
    Image image = example().put(12296, tokens);
    if (tokens == 4) image.put<uint64_t>(8200, 4);  // fits the page, but the last document would be empty
    refused(image, tokens == 4 ? "document 1 starts at token 4" : tokens == 2049 ? "starts_offset" : "do not fit");
  }
  refused(example().put<uint64_t>(12304, 0), "0 documents");
  for (const uint64_t documents : {uint64_t{513}, uint64_t{1} << 61})
    refused(example().put(12304, documents), "documents");
  refused(example().put<uint64_t>(12312, uint64_t{1} << 63), "raw_bytes");
  refused(example().put<uint64_t>(12320, 4096), "starts_offset is 4096, wanted 8192");
  refused(example().put<int64_t>(8192, 1), "document 0 starts at token 1");
  refused(example().put<int64_t>(8200, 0), "document 1 starts at token 0");
  refused(example().put<int64_t>(8200, 5), "document 1 starts at token 5");
  refused(example().put<int64_t>(8200, -1), "document 1 starts at token -1");
}

TEST_F(ShardTest, WriterRefusesBadArguments) {
  const auto create = [&](int32_t vocab_size, const std::string& digest) {
    return TokenShardWriter::create(Env::posix(), path("s"), vocab_size, digest).status().code();
  };
  EXPECT_EQ(create(0, kDigest), StatusCode::kInvalidArgument);
  EXPECT_EQ(create(10, "abc"), StatusCode::kInvalidArgument);
  EXPECT_EQ(create(10, std::string(64, 'G')), StatusCode::kInvalidArgument);
  {
    auto writer = value_or_throw(TokenShardWriter::create(Env::posix(), path("s"), 10, kDigest));
    EXPECT_EQ(writer->append_document({}, 1).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(writer->append_document(std::vector<int32_t>{3, 10}, 1).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(writer->append_document(std::vector<int32_t>{-1}, 1).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(writer->append_document(std::vector<int32_t>{1}, -1).code(), StatusCode::kInvalidArgument);
  }
  EXPECT_TRUE(files().empty());  // a writer that is not finished leaves nothing
}

// Whatever fails, the name holds the old shard or the new one, and no temporary file stays.
TEST_F(ShardTest, WriteFaultsLeaveNoHalfFile) {
  const std::string old_bytes = example().bytes();
  const std::vector<int32_t> document(3000, 4);
  const auto write_one = [&](Env& env) -> Status {
    ENGRAM_ASSIGN_OR_RETURN(auto writer, TokenShardWriter::create(env, path("s"), 10, kDigest));
    for (int i = 0; i < 400; ++i) ENGRAM_RETURN_IF_ERROR(writer->append_document(document, 1));
    return writer->finish().status();
  };
  FaultyEnv counting(Env::posix());
  throw_if_error(write_one(counting));
  const std::string new_bytes = contents_of("s");
  ASSERT_GT(counting.changes(), 6);
  for (int64_t n = 0; n < counting.changes(); ++n) {
    write("s", old_bytes);
    FaultyEnv env(Env::posix(), {.fail_change = n, .short_write = true});
    EXPECT_FALSE(write_one(env).ok()) << n;
    EXPECT_TRUE(contents_of("s") == old_bytes || contents_of("s") == new_bytes) << n;
    EXPECT_EQ(files(), std::vector<std::string>{"s"}) << n;
  }
  write("s", old_bytes);
  FaultyEnv full(Env::posix(), {.disk_bytes = 1 << 20});
  EXPECT_EQ(write_one(full).code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(contents_of("s") == old_bytes);
}

}  // namespace
}  // namespace engram
