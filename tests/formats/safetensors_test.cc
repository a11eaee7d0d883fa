// The reader and writer against a file of the Python package, and against files that lie.
// Vectors: tests/golden/make/safetensors_vectors.py.
#include "engram/formats/safetensors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "tests/fault_env.h"

namespace engram {
namespace {

const std::string kPythonFile = ENGRAM_SOURCE_DIR "/tests/parity/python.safetensors";

std::string file_of(std::string header, const std::string& data) {
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>(header.size() >> (8 * i));
  return file + header + data;
}

Status parse(const std::string& file) {
  return SafetensorsFile::parse(std::as_bytes(std::span(file)), "hostile").status();
}
void expect_refused(const std::string& file, const std::string& part_of_message) {
  Status status = parse(file);
  EXPECT_EQ(status.code(), StatusCode::kDataLoss) << file;
  EXPECT_NE(status.message().find(part_of_message), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("hostile"), std::string::npos) << status.message();
}

class SafetensorsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("engram_safetensors_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  Env& env_ = Env::posix();
  std::string folder_;
};

TEST_F(SafetensorsTest, ReadsThePythonPackagesFile) {
  SafetensorsFile file = value_or_throw(SafetensorsFile::open(env_, kPythonFile));
  EXPECT_EQ(file.tensors().size(), 19u);
  EXPECT_EQ(file.metadata().at("made by"), "safetensors \"Python\" \xE8\xAE\xB0\n");
  for (const auto& [name, view] : file.tensors()) {
    if (name.starts_with("matrix.")) {
      EXPECT_EQ(name, std::string("matrix.") + dtype_name(view.dtype));
      EXPECT_EQ(view.shape, (std::vector<int64_t>{2, 3}));
    }
    for (size_t i = 0; i < view.bytes.size(); ++i) {
      int wanted = view.dtype == DType::kBool ? static_cast<int>(i % 2) : static_cast<int>((37 * i + 11) % 256);
      ASSERT_EQ(std::to_integer<int>(view.bytes[i]), wanted) << name << " byte " << i;
    }
  }
  EXPECT_EQ(file.find("scalar")->shape, std::vector<int64_t>{});
  EXPECT_EQ(file.find("scalar")->bytes.size(), 4u);
  EXPECT_EQ(file.find("empty")->shape, (std::vector<int64_t>{0, 5}));
  EXPECT_EQ(file.find("gr\xC3\xB6\xC3\x9F"
                      "e \xE8\xAE\xB0\xE5\xBF\x86")
                ->dtype,
            DType::kBF16);
  Status missing = file.find("no such").status();
  EXPECT_EQ(missing.code(), StatusCode::kNotFound);
  EXPECT_EQ(missing.message(), "'" + kPythonFile + "': no tensor 'no such'");
}

// Equal bytes prove that the package would read what we write.
TEST_F(SafetensorsTest, WritesTheSameBytesAsThePythonPackage) {
  SafetensorsFile python = value_or_throw(SafetensorsFile::open(env_, kPythonFile));
  std::vector<std::pair<std::string, TensorView>> ordered(python.tensors().begin(), python.tensors().end());
  std::sort(ordered.begin(), ordered.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second.bytes.data(), a.second.bytes.size()) <
           std::pair(b.second.bytes.data(), b.second.bytes.size());
  });
  std::vector<TensorSpec> specs;
  for (const auto& [name, view] : ordered) specs.push_back({name, view.dtype, view.shape});
  const std::string path = folder_ + "/again.safetensors";
  auto writer = value_or_throw(SafetensorsWriter::create(env_, path, specs, python.metadata()));
  for (const auto& [name, view] : ordered) {
    throw_if_error(writer->append(view.bytes.first(view.bytes.size() / 2)));
    throw_if_error(writer->append(view.bytes.subspan(view.bytes.size() / 2)));
  }
  EXPECT_FALSE(env_.file_exists(path));
  throw_if_error(writer->finish());
  EXPECT_FALSE(env_.file_exists(path + ".tmp"));
  EXPECT_EQ(value_or_throw(env_.read_file(path)), value_or_throw(env_.read_file(kPythonFile)));
  EXPECT_EQ(writer->finish().code(), StatusCode::kFailedPrecondition);  // once only
}

TEST_F(SafetensorsTest, WriterRefusesWhatDoesNotFit) {
  const std::string path = folder_ + "/f.safetensors";
  auto create = [&](std::vector<TensorSpec> specs) { return SafetensorsWriter::create(env_, path, specs).status(); };
  EXPECT_EQ(create({{"a", DType::kF32, {1}}, {"a", DType::kF32, {1}}}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(create({{"__metadata__", DType::kF32, {1}}}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(create({{"a", DType::kF32, {-1}}}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(create({{"a", DType::kF32, {INT64_MAX, 2}}}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(create({{"\xFF", DType::kF32, {1}}}).code(), StatusCode::kInvalidArgument);
  {
    auto writer = value_or_throw(SafetensorsWriter::create(env_, path, {{"a", DType::kU8, {3}}}));
    EXPECT_EQ(writer->append(std::vector<std::byte>(4)).code(), StatusCode::kInvalidArgument);
    throw_if_error(writer->append(std::vector<std::byte>(2)));
    EXPECT_EQ(writer->finish().code(), StatusCode::kFailedPrecondition);
    EXPECT_TRUE(env_.file_exists(path + ".tmp"));
  }
  EXPECT_EQ(value_or_throw(env_.list_directory(folder_)), std::vector<std::string>{});  // nothing left behind
}

TEST_F(SafetensorsTest, EveryFaultLeavesTheOldFile) {
  const std::string path = folder_ + "/f.safetensors";
  auto write = [&](Env& env, char fill) -> Status {
    ENGRAM_ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::create(env, path, {{"a", DType::kU8, {100}}}));
    ENGRAM_RETURN_IF_ERROR(writer->append(std::vector<std::byte>(50, std::byte(fill))));
    ENGRAM_RETURN_IF_ERROR(writer->append(std::vector<std::byte>(50, std::byte(fill))));
    return writer->finish();
  };
  FaultyEnv counting(env_);
  throw_if_error(write(counting, 'o'));
  const std::string old_contents = value_or_throw(env_.read_file(path));
  for (int64_t n = 0; n + 1 < counting.changes(); ++n) {
    FaultyEnv faulty(env_, {.fail_change = n, .short_write = true});
    EXPECT_FALSE(write(faulty, 'n').ok());
    EXPECT_EQ(value_or_throw(env_.read_file(path)), old_contents) << n;
    EXPECT_FALSE(env_.file_exists(path + ".tmp")) << n;
  }
  FaultyEnv full(env_, {.disk_bytes = 120});
  Status status = write(full, 'n');
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("No space left on device"), std::string::npos);
  EXPECT_EQ(value_or_throw(env_.read_file(path)), old_contents);
}

// A failed append may have written half of its bytes: going on would shift every later tensor.
TEST_F(SafetensorsTest, AnAppendErrorSticks) {
  const std::string path = folder_ + "/f.safetensors";
  FaultyEnv faulty(env_, {.fail_append = 2, .short_write = true});
  auto writer = value_or_throw(SafetensorsWriter::create(faulty, path, {{"a", DType::kU8, {4}}}));
  EXPECT_FALSE(writer->append(std::vector<std::byte>(4)).ok());
  EXPECT_EQ(writer->append(std::vector<std::byte>(4)).code(), StatusCode::kDataLoss);
  EXPECT_EQ(writer->finish().code(), StatusCode::kDataLoss);
}

TEST(SafetensorsHostile, EveryTruncationIsRefused) {
  const std::string whole = value_or_throw(Env::posix().read_file(kPythonFile));
  ASSERT_TRUE(parse(whole).ok());
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_EQ(parse(whole.substr(0, size)).code(), StatusCode::kDataLoss) << size;
  }
  expect_refused(whole + "x", "bytes of data, wanted");
}

TEST(SafetensorsHostile, HeadersThatLie) {
  expect_refused("", "got 0 bytes");
  expect_refused(std::string(8, '\xFF'), "header length: got 18446744073709551615");
  expect_refused(file_of("", ""), "wanted '{'");
  expect_refused(file_of("[]", ""), "wanted '{'");
  expect_refused(file_of("{} x", ""), "not JSON");
  expect_refused(file_of("{\"a\":" + std::string(100000, '['), ""), "nested deeper");
  expect_refused(file_of("{\"a\":1}", ""), "dtype");
  expect_refused(file_of(R"({"a":{"dtype":31,"shape":[],"data_offsets":[0,4]}})", "0123"), "dtype: got no string");
  expect_refused(file_of(R"({"__metadata__":{"a":1}})", ""), "key 'a' holds no string");
  expect_refused(file_of(R"({"__metadata__":[]})", ""), "__metadata__");
  EXPECT_TRUE(parse(file_of(R"({"__metadata__":{}}   )", "")).ok());
}

TEST(SafetensorsHostile, ShapesAndOffsetsThatLie) {
  auto tensor = [](const std::string& shape, const std::string& offsets) {
    return file_of(R"({"a":{"dtype":"F32","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}", "01234567");
  };
  EXPECT_TRUE(parse(tensor("[2]", "[0,8]")).ok());
  EXPECT_TRUE(parse(tensor("[1,2,1]", "[0,8]")).ok());
  expect_refused(tensor("[1]", "[0,8]"), "hold 8 bytes, wanted 4");
  expect_refused(tensor("[1]", "[0,4]"), "got 8 bytes of data, wanted 4");
  expect_refused(tensor("[1]", "[4,8]"), "begins at 4, wanted 0");
  expect_refused(tensor("[3]", "[0,12]"), "truncated file?");
  expect_refused(tensor("[-2]", "[0,8]"), "shape: got '-2'");
  expect_refused(tensor("[2.0]", "[0,8]"), "shape: got '2.0'");
  expect_refused(tensor("[true]", "[0,8]"), "shape: got 'true'");
  expect_refused(tensor("2", "[0,8]"), "shape: got no array");
  expect_refused(tensor("null", "[0,8]"), "shape: got no array");
  expect_refused(tensor("[18446744073709551615]", "[0,8]"), "shape: got '18446744073709551615'");
  expect_refused(tensor("[9223372036854775807,2]", "[0,8]"), "more than 2^63 - 1 bytes");
  // 2^31 * 2^31 * 4 wraps to 0 in 64 bits.
  expect_refused(tensor("[2147483648,2147483648]", "[0,0]"), "more than 2^63 - 1 bytes");
  expect_refused(tensor("[2]", "[8,0]"), "0 <= begin <= end");
  expect_refused(tensor("[2]", "[-8,0]"), "0 <= begin <= end");
  expect_refused(tensor("[2]", "[0]"), "no pair");
  expect_refused(tensor("[2]", "[0,18446744073709551615]"), "0 <= begin <= end");
  expect_refused(tensor("[2305843009213693951]", "[0,9223372036854775804]"), "truncated file?");
}

TEST(SafetensorsHostile, OverlapsGapsAndTwins) {
  auto two = [](const std::string& a, const std::string& b) {
    return file_of(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + a +
                       R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + b + "}}",
                   "01234567");
  };
  EXPECT_TRUE(parse(two("[0,4]", "[4,8]")).ok());
  EXPECT_TRUE(parse(two("[4,8]", "[0,4]")).ok());
  expect_refused(two("[0,4]", "[0,4]"), "tensor 'b'");
  expect_refused(two("[0,4]", "[2,6]"), "begins at 2, wanted 4");
  expect_refused(two("[4,8]", "[4,8]"), "begins at 4, wanted 0");
  std::string entry = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  expect_refused(file_of("{" + entry + "," + entry + "}", "0123"), "appears twice");
}

}  // namespace
}  // namespace engram
