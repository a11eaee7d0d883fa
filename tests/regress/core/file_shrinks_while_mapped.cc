// Seen: a file that was cut while it was mapped ended the process with SIGBUS. Right: the reader is told, with file and
// page, and everything else goes on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <numeric>
#include <thread>
#include <vector>

#include "engram/core/env.h"

namespace engram {
namespace {

class FileShrinksWhileMapped : public ::testing::Test {
 protected:
  void SetUp() override {
    throw_if_error(write_file_atomic(env_, path_, std::string(kPages * kPage, 'x')));
    file_ = value_or_throw(env_.map_file(path_));
  }
  void TearDown() override { std::filesystem::remove(path_); }
  int64_t sum() const {
    const auto bytes = file_->bytes();
    return std::accumulate(bytes.begin(), bytes.end(), int64_t{0},
                           [](int64_t total, std::byte b) { return total + static_cast<int64_t>(b); });
  }

  static constexpr int64_t kPages = 16, kPage = 4096, kAll = kPages * kPage * 'x';
  Env& env_ = Env::posix();
  const std::string path_ = ::testing::TempDir() + "shrinks-" + std::to_string(::getpid());
  std::unique_ptr<MappedFile> file_;
};

TEST_F(FileShrinksWhileMapped, ReaderIsTold) {
  EXPECT_EQ(sum(), kAll);
  throw_if_error(file_->readable());
  EXPECT_FALSE(file_->has_changed());
  throw_if_error(env_.truncate_file(path_, 3 * kPage));
  EXPECT_TRUE(file_->has_changed());
  EXPECT_EQ(sum(), 3 * kPage * 'x');
  EXPECT_EQ(file_->readable().code(), StatusCode::kDataLoss);
  EXPECT_EQ(file_->readable().message(), "'" + path_ +
                                             "': page 3 (byte 12288) is gone: the file shrank from 65536 to 12288 "
                                             "bytes while it was open");
}

TEST_F(FileShrinksWhileMapped, ManyThreadsAtOnceAndOtherMappingsToo) {
  auto other = value_or_throw(env_.map_file(path_));
  throw_if_error(env_.truncate_file(path_, 0));
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) threads.emplace_back([&] { EXPECT_EQ(sum(), 0); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(file_->readable().ok());
  EXPECT_TRUE(other->readable().ok());  // nothing of it was touched
  // A mapping that takes the place of the lost one starts whole.
  file_.reset();
  throw_if_error(write_file_atomic(env_, path_, std::string(kPages * kPage, 'x')));
  file_ = value_or_throw(env_.map_file(path_));
  EXPECT_EQ(sum(), kAll);
  throw_if_error(file_->readable());
}

TEST_F(FileShrinksWhileMapped, OverwritingIsSeenAndReplacingIsNot) {
  throw_if_error(write_file_atomic(env_, path_, "another file of the same name"));
  EXPECT_FALSE(file_->has_changed());
  EXPECT_EQ(sum(), kAll);
  file_ = value_or_throw(env_.map_file(path_));
  std::filesystem::last_write_time(path_, std::filesystem::last_write_time(path_) + std::chrono::seconds(1));
  EXPECT_TRUE(file_->has_changed());
}

// An address that is nobody's still ends the process.
TEST_F(FileShrinksWhileMapped, OtherBusErrorsAreNotHidden) {
  EXPECT_EXIT(::raise(SIGBUS), ::testing::KilledBySignal(SIGBUS),
              ::testing::_);  // no pattern: libonig's regexec(), found before libc's, matches nothing in an empty text
}

}  // namespace
}  // namespace engram
