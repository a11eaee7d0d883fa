// Seen: a link at a name that a command is about to write (`t.rows.partial`, `train.tokens.tmp`, `metrics.jsonl`), put
// there by another user of a shared folder, and the file it points at was overwritten. Right: nothing that stands under
// the name is written through, whatever writes.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "engram/core/env.h"
#include "engram/formats/safetensors.h"

namespace engram {
namespace {

std::span<const std::byte> as_bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

class LinkAtATemporaryName : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "links-" + std::to_string(::getpid());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    std::ofstream(path("victim")) << "precious";
  }
  void TearDown() override {
    EXPECT_EQ(contents_of("victim"), "precious");
    std::filesystem::remove_all(folder_);
  }
  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  std::string contents_of(const std::string& name) const {
    std::stringstream text;
    text << std::ifstream(path(name)).rdbuf();
    return text.str();
  }
  void link(const std::string& name) const { std::filesystem::create_symlink("victim", path(name)); }
  void hard_link(const std::string& name) const { std::filesystem::create_hard_link(path("victim"), path(name)); }

  Env& env_ = Env::posix();
  std::string folder_;
};

TEST_F(LinkAtATemporaryName, AtomicWrite) {
  link("f.tmp");
  throw_if_error(write_file_atomic(env_, path("f"), "new"));
  EXPECT_EQ(contents_of("f"), "new");
  hard_link("g.tmp");
  throw_if_error(write_file_atomic(env_, path("g"), "new"));
  EXPECT_EQ(contents_of("g"), "new");
  link("h");  // the name itself: the link is replaced
  throw_if_error(write_file_atomic(env_, path("h"), "new"));
  EXPECT_EQ(contents_of("h"), "new");
  std::filesystem::create_symlink("nowhere", path("i.tmp"));
  throw_if_error(write_file_atomic(env_, path("i"), "new"));
  EXPECT_FALSE(std::filesystem::exists(path("nowhere")));
}

TEST_F(LinkAtATemporaryName, Safetensors) {
  link("t.tmp");
  auto writer = value_or_throw(SafetensorsWriter::create(env_, path("t"), {{"a", DType::kU8, {3}}}));
  throw_if_error(writer->append(as_bytes("abc")));
  throw_if_error(writer->finish());
  EXPECT_EQ(value_or_throw(SafetensorsFile::open(env_, path("t"))).tensors().size(), 1u);
}

TEST_F(LinkAtATemporaryName, FilesThatGrow) {
  link("soft");
  hard_link("hard");
  for (const char* name : {"soft", "hard"}) {
    EXPECT_EQ(env_.new_appendable_file(path(name)).status().code(), StatusCode::kFailedPrecondition) << name;
    EXPECT_EQ(env_.truncate_file(path(name), 1).code(), StatusCode::kFailedPrecondition) << name;
  }
}

TEST_F(LinkAtATemporaryName, LinksAndFolders) {
  link("latest.tmp");
  throw_if_error(env_.replace_symlink("step-1", path("latest")));
  EXPECT_EQ(value_or_throw(env_.read_symlink(path("latest"))), "step-1");
  std::filesystem::create_directories(path("home"));
  std::filesystem::create_symlink("home", path("work"));
  EXPECT_EQ(env_.create_directory(path("work")).code(), StatusCode::kAlreadyExists);
  throw_if_error(env_.remove_directory_recursively(path("work")));
  EXPECT_TRUE(std::filesystem::exists(path("home")));
}

// Writing "over" what is no file must not take it away: as root, unlink() removes a device.
TEST_F(LinkAtATemporaryName, DevicesAndPipesStay) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  for (const std::string& name : {path("pipe"), std::string("/dev/null")}) {
    EXPECT_EQ(env_.new_writable_file(name).status().code(), StatusCode::kInvalidArgument) << name;
    EXPECT_EQ(env_.new_appendable_file(name).status().code(), StatusCode::kInvalidArgument) << name;
    EXPECT_TRUE(std::filesystem::exists(name));
  }
  EXPECT_FALSE(env_.new_writable_file(path("")).ok());  // a folder
  // Nor does a finished file take a device's place: /dev/null was an output once.
  EXPECT_EQ(write_file_atomic(env_, path("pipe"), "new").code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(std::filesystem::is_fifo(path("pipe")));
  EXPECT_FALSE(std::filesystem::exists(path("pipe.tmp")));
}

}  // namespace
}  // namespace engram
