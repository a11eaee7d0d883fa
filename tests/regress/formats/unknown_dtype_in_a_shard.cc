// Seen: a shard that also holds a tensor of dtype F4, F8_E4M3FNUZ or F6_E3M2 was refused as a whole. Right: only who
// asks for that tensor is refused, by its name.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "engram/formats/safetensors.h"

namespace engram {
namespace {

std::string file_of(const std::string& header, size_t data_bytes) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(header.size() >> (8 * i));
  return bytes + header + std::string(data_bytes, 'd');
}
Result<SafetensorsFile> parse(const std::string& bytes) {
  return SafetensorsFile::parse(std::as_bytes(std::span(bytes)), "shard");
}

TEST(UnknownDtypeInAShard, OthersAreRead) {
  for (const char* dtype : {"F4", "F8_E4M3FNUZ", "F6_E3M2", "", "X\\n\\u0000"}) {
    const std::string bytes = file_of(fmt::format(R"({{"a":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}},)"
                                                  R"("odd":{{"dtype":"{}","shape":[3,5],"data_offsets":[8,15]}},)"
                                                  R"("z":{{"dtype":"U8","shape":[1],"data_offsets":[15,16]}}}})",
                                                  dtype),
                                      16);
    const SafetensorsFile file = value_or_throw(parse(bytes));
    EXPECT_EQ(file.tensors().size(), 2u);
    EXPECT_EQ(value_or_throw(file.find("z")).bytes.size(), 1u);
    const Status status = file.find("odd").status();
    EXPECT_EQ(status.code(), StatusCode::kUnimplemented);
    EXPECT_NE(status.message().find("'shard': tensor 'odd': dtype: got '"), std::string::npos) << status.message();
    EXPECT_EQ(status.message().find('\n'), std::string::npos);
    EXPECT_EQ(file.unknown().size(), 1u);
  }
}

TEST(UnknownDtypeInAShard, ItsPlaceIsStillChecked) {
  const auto status_of = [](int begin, int end, size_t data_bytes) {
    return parse(file_of(fmt::format(R"({{"a":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},)"
                                     R"("odd":{{"dtype":"F4","shape":[2],"data_offsets":[{},{}]}}}})",
                                     begin, end),
                         data_bytes))
        .status()
        .code();
  };
  EXPECT_EQ(status_of(4, 5, 5), StatusCode::kOk);
  EXPECT_EQ(status_of(3, 5, 5), StatusCode::kDataLoss);   // overlap
  EXPECT_EQ(status_of(5, 6, 6), StatusCode::kDataLoss);   // gap
  EXPECT_EQ(status_of(4, 9, 5), StatusCode::kDataLoss);   // beyond the end
  EXPECT_EQ(status_of(4, 5, 50), StatusCode::kDataLoss);  // bytes that are nobody's
}

TEST(UnknownDtypeInAShard, CutOrWrittenToWhileOpen) {
  const std::string path = ::testing::TempDir() + "shard-" + std::to_string(::getpid());
  const std::string bytes = file_of(R"({"a":{"dtype":"U8","shape":[20000],"data_offsets":[0,20000]}})", 20000);
  throw_if_error(write_file_atomic(Env::posix(), path, bytes));
  std::filesystem::last_write_time(path, std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
  auto file = value_or_throw(SafetensorsFile::open(Env::posix(), path));
  throw_if_error(file.check_unchanged());
  std::fstream(path, std::ios::in | std::ios::out).seekp(1000) << "overwritten";
  EXPECT_EQ(file.check_unchanged().code(), StatusCode::kDataLoss);
  file = value_or_throw(SafetensorsFile::open(Env::posix(), path));
  std::filesystem::resize_file(path, 4096);
  EXPECT_EQ(value_or_throw(file.find("a")).bytes[19000], std::byte{0});  // no signal
  EXPECT_NE(file.check_unchanged().message().find("is gone: the file shrank"), std::string::npos);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace engram
