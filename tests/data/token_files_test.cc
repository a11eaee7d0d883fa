// Token files of llm.c and Megatron-LM: bytes as their own writers make them, there and back, and what must be refused.
#include "engram/data/token_files.h"

#include <cstring>

#include "tests/data/data_test.h"

namespace engram {
namespace {

template <typename T>
void put(std::string& out, std::initializer_list<T> values) {
  for (const T value : values) out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

class TokenFiles : public DataTest {
 protected:
  static constexpr int32_t kEnd = 50;

  static std::string llm(int32_t magic, int32_t version, int32_t count, std::initializer_list<uint16_t> ids) {
    std::string out;
    put<int32_t>(out, {magic, version, count});
    out.resize(1024);
    put(out, ids);
    return out;
  }
  // Two documents of three sequences.
  static std::string index(uint8_t type = 8, uint64_t version = 1) {
    std::string out("MMIDIDX\0\0", 9);
    put<uint64_t>(out, {version});
    put<uint8_t>(out, {type});
    put<uint64_t>(out, {3, 3});
    put<int32_t>(out, {2, 1, 3});
    put<int64_t>(out, {0, 4, 6});
    put<int64_t>(out, {0, 2, 3});
    return out;
  }
  Result<Documents> read(const std::string& name, int32_t vocab_size = 51) const {
    return read_token_file(Env::posix(), path(name), vocab_size, kEnd);
  }
  std::string error_of(const std::string& name) const { return read(name).status().message(); }
};

TEST_F(TokenFiles, LlmBeginsDocumentsWithTheEndOfText) {
  write("a.bin", llm(20240520, 1, 8, {50, 1, 2, 50, 50, 3, 4, 50}));
  EXPECT_EQ(value_or_throw(read("a.bin")), (Documents{{1, 2}, {3, 4}}));
  std::string wide;
  put<int32_t>(wide, {20240801, 7, 2});
  wide.resize(1024);
  put<uint32_t>(wide, {70000, 3});
  write("wide.bin", wide);
  EXPECT_EQ(value_or_throw(read("wide.bin", 70001)), (Documents{{70000, 3}}));
}

TEST_F(TokenFiles, MegatronHasDocumentsOfSequences) {
  std::string ids;
  put<uint16_t>(ids, {1, 2, 50, 4, 5, 50});
  write("m.bin", ids);
  write("m.idx", index());
  EXPECT_EQ(value_or_throw(read("m.bin")), (Documents{{1, 2}, {4, 5}}));
  EXPECT_EQ(value_or_throw(read("m.idx")), (Documents{{1, 2}, {4, 5}}));
}

TEST_F(TokenFiles, WrittenOnesAreReadBack) {
  const Documents plain = {{1, 2, 3}, {4}, {5, 6}};
  Documents ended = plain;
  for (auto& document : ended) document.push_back(kEnd);
  for (const int32_t vocab_size : {51, 70000}) {
    const TokenShard shard = make_shard(fmt::format("{}.tokens", vocab_size), ended, vocab_size);
    throw_if_error(write_token_file(Env::posix(), shard, TokenFileFormat::kLlmC, kEnd, path("l.bin")));
    throw_if_error(write_token_file(Env::posix(), shard, TokenFileFormat::kMegatron, kEnd, path("m")));
    EXPECT_EQ(value_or_throw(read("l.bin", vocab_size)), plain);
    EXPECT_EQ(value_or_throw(read("m.idx", vocab_size)), plain);
    const std::string header = contents_of("l.bin").substr(0, 12);
    int32_t numbers[3];
    std::memcpy(numbers, header.data(), 12);
    EXPECT_EQ(numbers[0], vocab_size == 51 ? 20240520 : 20240801);
    EXPECT_EQ(numbers[2], 9);
  }
  EXPECT_EQ(files(), (std::vector<std::string>{"51.tokens", "70000.tokens", "l.bin", "m.bin", "m.idx"}));
  const TokenShard masked = make_masked_shard("masked.tokens", plain, {0, 0, 1}, 51);
  EXPECT_NE(write_token_file(Env::posix(), masked, TokenFileFormat::kLlmC, kEnd, path("x.bin")).message().find("mask"),
            std::string::npos);
}

TEST_F(TokenFiles, BadOnesAreRefused) {
  write("other.bin", "just bytes");
  EXPECT_NE(error_of("other.bin").find("neither a token file of llm.c's, nor one of Megatron's"), std::string::npos);
  write("version.bin", llm(20240520, 2, 1, {1}));
  EXPECT_NE(error_of("version.bin").find("got version 2 of llm.c's"), std::string::npos);
  for (const int32_t count : {-1, 1, 3, 2147483647}) {
    write("count.bin", llm(20240520, 1, count, {1, 2}));
    EXPECT_NE(error_of("count.bin").find(fmt::format("wanted {} ids of 2", count)), std::string::npos);
  }
  write("id.bin", llm(20240520, 1, 1, {51}));
  EXPECT_NE(error_of("id.bin").find("got the id 51, wanted 0 to 50: is it of another tokenizer?"), std::string::npos);
  EXPECT_EQ(read("none.bin").status().code(), StatusCode::kNotFound);

  std::string ids;
  put<uint16_t>(ids, {1, 2, 50, 4, 5, 50});
  write("m.bin", ids);
  const std::string good = index();
  const auto refused = [&](std::string bad, const std::string& words) {
    write("m.idx", bad);
    EXPECT_NE(error_of("m.bin").find(words), std::string::npos) << error_of("m.bin");
  };
  refused("MMIDIDX", "no index of Megatron's");
  refused(index(8, 2), "got version 2");
  refused(index(7), "got ids of type 7");
  refused(good.substr(0, good.size() - 8), "bytes behind the header, wanted 3 sequences and 2 documents");
  refused(index(4), "got the id 131073");
  for (size_t at = 0; at < good.size(); ++at) {  // whatever byte is another: an error or documents, no crash
    std::string bad = good;
    bad[at] = static_cast<char>(0xFF);
    write("m.idx", bad);
    (void)read("m.bin");
  }
}

}  // namespace
}  // namespace engram
