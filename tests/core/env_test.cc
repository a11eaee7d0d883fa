// The POSIX Env against the file system itself, and write_file_atomic under every fault.
#include "engram/core/env.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/fault_env.h"

namespace engram {
namespace {

// What plain iostreams see: an oracle that shares no code with Env.
std::string contents_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

class EnvTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("engram_env_" + std::to_string(::getpid()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string path(const std::string& name) const { return folder_ + "/" + name; }

  Env& env_ = Env::posix();
  std::string folder_;
};

std::span<const std::byte> as_bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST_F(EnvTest, WritesAppendsReadsAndMaps) {
  auto file = value_or_throw(env_.new_writable_file(path("a")));
  throw_if_error(file->append(as_bytes("one ")));
  EXPECT_EQ(contents_of(path("a")), "one ");  // unbuffered
  throw_if_error(file->sync());
  throw_if_error(file->close());
  auto more = value_or_throw(env_.new_appendable_file(path("a")));
  throw_if_error(more->append(as_bytes(std::string(100000, 'x'))));
  throw_if_error(more->close());
  std::string wanted = "one " + std::string(100000, 'x');
  EXPECT_EQ(contents_of(path("a")), wanted);
  EXPECT_EQ(value_or_throw(env_.read_file(path("a"))), wanted);
  EXPECT_EQ(value_or_throw(env_.file_size(path("a"))), static_cast<int64_t>(wanted.size()));
  auto mapped = value_or_throw(env_.map_file(path("a")));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(mapped->bytes().data()), mapped->bytes().size()), wanted);
  throw_if_error(env_.truncate_file(path("a"), 3));
  EXPECT_EQ(contents_of(path("a")), "one");
}

TEST_F(EnvTest, EmptyFileMapsToNoBytes) {
  throw_if_error(write_file_atomic(env_, path("empty"), ""));
  EXPECT_TRUE(value_or_throw(env_.map_file(path("empty")))->bytes().empty());
  EXPECT_EQ(value_or_throw(env_.read_file(path("empty"))), "");
}

TEST_F(EnvTest, ReadsAPipe) {
  std::string fifo = path("fifo");
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  pid_t child = ::fork();
  if (child == 0) {
    std::ofstream(fifo) << std::string(70000, 'p');
    ::_exit(0);
  }
  EXPECT_EQ(value_or_throw(env_.read_file(fifo, {.pipes = true})), std::string(70000, 'p'));
  EXPECT_EQ(env_.read_file(fifo).status().message(),
            "cannot read '" + fifo + "': it is a pipe or a device, wanted a regular file");
  EXPECT_EQ(env_.map_file(path("nothing")).status().code(), StatusCode::kNotFound);
}

TEST_F(EnvTest, FoldersAndLinks) {
  throw_if_error(env_.create_directories(path("x/y/z")));
  throw_if_error(env_.create_directories(path("x/y/z")));  // again is fine
  throw_if_error(write_file_atomic(env_, path("x/b"), "b"));
  throw_if_error(write_file_atomic(env_, path("x/a"), "a"));
  EXPECT_EQ(value_or_throw(env_.list_directory(path("x"))), (std::vector<std::string>{"a", "b", "y"}));
  throw_if_error(env_.replace_symlink("a", path("x/link")));
  throw_if_error(env_.replace_symlink("b", path("x/link")));
  EXPECT_EQ(value_or_throw(env_.read_symlink(path("x/link"))), "b");
  EXPECT_EQ(value_or_throw(env_.read_file(path("x/link"))), "b");
  throw_if_error(env_.rename_file(path("x"), path("renamed")));
  EXPECT_TRUE(env_.file_exists(path("renamed/y/z")));
  EXPECT_FALSE(env_.file_exists(path("x")));
  throw_if_error(env_.sync_directory(folder_));
  throw_if_error(env_.remove_directory_recursively(path("renamed")));
  throw_if_error(env_.remove_directory_recursively(path("renamed")));  // absent is ok
  EXPECT_EQ(value_or_throw(env_.list_directory(folder_)), std::vector<std::string>{});
}

TEST_F(EnvTest, ErrorsNamePathAndReason) {
  Status missing = env_.read_file(path("none")).status();
  EXPECT_EQ(missing.code(), StatusCode::kNotFound);
  EXPECT_EQ(missing.message(), "cannot open '" + path("none") + "': No such file or directory");
  EXPECT_EQ(env_.read_file(folder_).status().message(), "cannot read '" + folder_ + "': Is a directory");
  EXPECT_EQ(env_.map_file(folder_).status().message(), "cannot read '" + folder_ + "': Is a directory");
  EXPECT_EQ(env_.remove_file(path("none")).code(), StatusCode::kNotFound);
  EXPECT_EQ(env_.list_directory(path("none")).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(env_.new_writable_file(path("no/folder")).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(env_.rename_file(path("none"), path("b")).code(), StatusCode::kNotFound);
  throw_if_error(write_file_atomic(env_, path("file"), "x"));
  EXPECT_FALSE(env_.create_directories(path("file/below")).ok());
}

// A limit on the size of files stands for the end of a disk.
TEST_F(EnvTest, FullDiskIsReported) {
  rlimit old;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  const rlimit small{4096, old.rlim_max};
  auto* const handler = ::signal(SIGXFSZ, SIG_IGN);
  auto file = value_or_throw(env_.new_writable_file(path("full")));
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const Status status = file->append(as_bytes(std::string(10000, 'x')));
  ::setrlimit(RLIMIT_FSIZE, &old);
  ::signal(SIGXFSZ, handler);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(), "cannot write '" + path("full") + "': File too large");
}

TEST_F(EnvTest, ReadOnlyFolderIsReported) {
  // Root may write anywhere but below /proc, which refuses new files for everybody.
  Status status = write_file_atomic(env_, "/proc/engram_test", "x");
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find("/proc/engram_test"), std::string::npos) << status.message();
}

TEST_F(EnvTest, AtomicWriteKeepsTheOldFileUnderEveryFault) {
  throw_if_error(write_file_atomic(env_, path("f"), "old contents"));
  FaultyEnv counting(env_);
  throw_if_error(write_file_atomic(counting, path("f"), "old contents"));
  const int64_t changes = counting.changes();
  ASSERT_GE(changes, 5);  // open, append, sync, close, rename, sync of the folder
  for (bool dead : {false, true}) {
    for (int64_t n = 0; n < changes; ++n) {
      throw_if_error(write_file_atomic(env_, path("f"), "old contents"));
      FaultyEnv faulty(env_, {.fail_change = n, .short_write = true, .dead_after = dead});
      Status status = write_file_atomic(faulty, path("f"), "new contents, longer");
      EXPECT_FALSE(status.ok()) << n;
      throw_if_error(faulty.drop_unsynced_data());
      // Only the folder's sync comes after the rename.
      EXPECT_EQ(contents_of(path("f")), n == changes - 1 ? "new contents, longer" : "old contents") << n;
      if (!dead) {
        EXPECT_FALSE(env_.file_exists(path("f.tmp"))) << n;
      }
    }
  }
}

TEST_F(EnvTest, AtomicWriteOnAFullDisk) {
  throw_if_error(write_file_atomic(env_, path("f"), "old"));
  FaultyEnv faulty(env_, {.disk_bytes = 4});
  Status status = write_file_atomic(faulty, path("f"), "longer than four");
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(contents_of(path("f")), "old");
  EXPECT_FALSE(env_.file_exists(path("f.tmp")));
}

TEST_F(EnvTest, FaultyEnvDamagesReadsAndLosesUnsyncedData) {
  throw_if_error(write_file_atomic(env_, path("f"), "abc"));
  FaultyEnv flipping(env_, {.flip_bit = 8});
  EXPECT_EQ(value_or_throw(flipping.read_file(path("f"))), "acc");
  EXPECT_EQ(static_cast<char>(value_or_throw(flipping.map_file(path("f")))->bytes()[1]), 'c');
  FaultyEnv shortened(env_, {.read_bytes = 2});
  EXPECT_EQ(value_or_throw(shortened.read_file(path("f"))), "ab");
  FaultyEnv losing(env_);
  auto file = value_or_throw(losing.new_writable_file(path("g")));
  throw_if_error(file->append(as_bytes("kept")));
  throw_if_error(file->sync());
  throw_if_error(file->append(as_bytes("lost")));
  throw_if_error(losing.rename_file(path("g"), path("h")));
  throw_if_error(losing.drop_unsynced_data());
  EXPECT_EQ(contents_of(path("h")), "kept");
}

TEST_F(EnvTest, RandomAccessReadsAnyPart) {
  throw_if_error(write_file_atomic(env_, path("f"), "0123456789"));
  const auto read = [&](Env& env, int64_t offset, size_t size) {
    const auto file = value_or_throw(env.new_random_access_file(path("f")));
    std::string out(size, '?');
    out.resize(value_or_throw(file->read_at(offset, std::as_writable_bytes(std::span(out)))));
    return out;
  };
  EXPECT_EQ(read(env_, 0, 4), "0123");
  EXPECT_EQ(read(env_, 7, 4), "789");
  EXPECT_EQ(read(env_, 11, 4), "");
  FaultyEnv flipping(env_, {.flip_bit = 8 * 8});
  EXPECT_EQ(read(flipping, 7, 2), "79");
  EXPECT_EQ(read(flipping, 0, 8), "01234567");
  FaultyEnv shortened(env_, {.read_bytes = 8});
  EXPECT_EQ(read(shortened, 7, 4), "7");
  EXPECT_EQ(value_or_throw(value_or_throw(shortened.new_random_access_file(path("f")))->size()), 8);
  FaultyEnv failing(env_, {.fail_read = 0});
  std::byte out;
  EXPECT_EQ(value_or_throw(failing.new_random_access_file(path("f")))->read_at(0, {&out, 1}).status().code(),
            StatusCode::kDataLoss);
  EXPECT_EQ(env_.new_random_access_file(path("none")).status().code(), StatusCode::kNotFound);
}

TEST(PathTest, JoinAndParent) {
  EXPECT_EQ(join_path("a", "b"), "a/b");
  EXPECT_EQ(join_path("a/", "b"), "a/b");
  EXPECT_EQ(join_path("", "b"), "b");
  EXPECT_EQ(join_path("/", "b"), "/b");
  EXPECT_EQ(parent_path("a/b"), "a");
  EXPECT_EQ(parent_path("a/b/"), "a");
  EXPECT_EQ(parent_path("b"), ".");
  EXPECT_EQ(parent_path("/b"), "/");
  EXPECT_EQ(parent_path("/"), "/");
}

}  // namespace
}  // namespace engram
