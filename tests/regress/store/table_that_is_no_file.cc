// Seen: a pipe in a table's place kept the drive tiers for ever in open(). Right: refused, in every tier, as a folder
// or a device is.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "engram/store/open.h"
#include "tests/store/store_test.h"

namespace engram {
namespace {

using TableThatIsNoFile = StoreTest;

TEST_F(TableThatIsNoFile, IsRefusedInEveryTier) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  std::filesystem::create_symlink("/dev/zero", path("zero"));
  std::filesystem::create_directory(path("folder"));
  for (const char* tier : {"dram:", "mapped:", "pagecache:", "nvme:"}) {
    for (const char* name : {"pipe", "zero", "folder"}) {
      const Status status = open_row_store(Env::posix(), tier + path(name), 1).status();
      EXPECT_FALSE(status.ok()) << tier << name;
      EXPECT_NE(status.message().find(path(name)), std::string::npos) << status.message();
    }
  }
}

}  // namespace
}  // namespace engram
