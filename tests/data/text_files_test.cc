#include "engram/data/text_files.h"

#include "tests/data/data_test.h"

namespace engram {
namespace {

class TextFilesTest : public DataTest {
 protected:
  void make(const std::string& name) const {
    std::filesystem::create_directories(std::filesystem::path(path(name)).parent_path());
    write(name, "text");
  }
  Result<TextFiles> find(const std::vector<std::string>& names) const {
    std::vector<std::string> paths;
    for (const std::string& name : names) paths.push_back(path(name));
    return find_text_files(Env::posix(), paths);
  }
};

TEST_F(TextFilesTest, AFolderStandsForItsTextInTheOrderOfNames) {
  for (const char* name : {"t/b.txt", "t/a.MD", "t/below/c.rst", "t/below/deep/d.markdown", "t/z.text", "t/picture.png",
                           "t/.hidden.txt", "t/.git/e.txt", "t/.lock", "other.csv"})
    make(name);
  const TextFiles found = value_or_throw(find({"other.csv", "t"}));
  std::vector<std::string> wanted;
  for (const char* name : {"other.csv", "t/a.MD", "t/b.txt", "t/below/c.rst", "t/below/deep/d.markdown", "t/z.text"})
    wanted.push_back(path(name));
  EXPECT_EQ(found.files, wanted);
  EXPECT_EQ(found.skipped, 1);
  EXPECT_EQ(found.first_skipped, path("t/picture.png"));
}

TEST_F(TextFilesTest, WhatIsNotThereIsSaid) {
  EXPECT_EQ(find({"none"}).status().message(), path("none") + ": no such file or folder");
  make("t/picture.png");
  EXPECT_TRUE(find({"t"}).status().message().starts_with(path("t") + ": no text in this folder"))
      << find({"t"}).status().message();
  make("circle/a.txt");
  std::filesystem::create_directory_symlink(path("circle"), path("circle/again"));
  EXPECT_EQ(find({"circle"}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(value_or_throw(find({})).files.empty());
}

}  // namespace
}  // namespace engram
