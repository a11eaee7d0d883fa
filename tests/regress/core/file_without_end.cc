// Seen: config.json that is a pipe kept the program for ever, a link to /dev/zero took all memory. Right: what is read
// whole is a regular file of a bounded size; pipes only where text is read that a user named.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "engram/core/json.h"
#include "engram/formats/safetensors.h"
#include "engram/text/tokenizer.h"

namespace engram {
namespace {

class FileWithoutEnd : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    ASSERT_EQ(::mkfifo((folder_ + "/pipe").c_str(), 0600), 0);
    std::filesystem::create_symlink("/dev/zero", folder_ + "/zero");
    std::filesystem::create_symlink("pipe", folder_ + "/link");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  Env& env_ = Env::posix();
  const std::string folder_ = ::testing::TempDir() + "endless-" + std::to_string(::getpid());
};

TEST_F(FileWithoutEnd, IsRefusedAtOnce) {
  for (const char* name : {"/pipe", "/zero", "/link"}) {
    const std::string path = folder_ + name;
    const std::string wanted = "cannot read '" + path + "': it is a pipe or a device, wanted a regular file";
    EXPECT_EQ(env_.read_file(path).status().message(), wanted);
    EXPECT_EQ(env_.map_file(path).status().message(), wanted);
    EXPECT_EQ(env_.new_random_access_file(path).status().message(), wanted);
    EXPECT_EQ(read_json_file(env_, path).status().message(), wanted);
    EXPECT_EQ(SafetensorsFile::open(env_, path).status().message(), wanted);
    EXPECT_EQ(Tokenizer::load(env_, path).status().message(), wanted);
  }
}

TEST_F(FileWithoutEnd, StopsAtTheLimit) {
  EXPECT_EQ(env_.read_file(folder_ + "/zero", {.max_bytes = 100000, .pipes = true}).status().code(),
            StatusCode::kResourceExhausted);
  // Text may come through a pipe, and all memory may be its limit: `engram eval --file` read a link to /dev/zero for
  // over a minute and took 7 GB.
  EXPECT_EQ(env_.read_file(folder_ + "/zero", {.max_bytes = int64_t{1} << 60, .pipes = true}).status().message(),
            "cannot read '" + folder_ + "/zero': got more bytes, wanted at most 1073741824");
  throw_if_error(write_file_atomic(env_, folder_ + "/file", "0123456789"));
  EXPECT_EQ(value_or_throw(env_.read_file(folder_ + "/file", {.max_bytes = 10})), "0123456789");
  EXPECT_EQ(env_.read_file(folder_ + "/file", {.max_bytes = 9}).status().message(),
            "cannot read '" + folder_ + "/file': got 10 bytes, wanted at most 9");
  // Sparse: larger than any memory, and nothing of it is read.
  std::filesystem::resize_file(folder_ + "/file", uintmax_t{1} << 40);
  EXPECT_EQ(env_.read_file(folder_ + "/file").status().code(), StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace engram
