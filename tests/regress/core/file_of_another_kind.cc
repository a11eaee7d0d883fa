// Seen: a Git LFS pointer as shard gave "header length: got 2335244402547650934", a Parquet table or JSON lines were
// tokenised as text. Right: named for what they are, with what to do.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "engram/core/file_kind.h"
#include "engram/core/json.h"
#include "engram/formats/safetensors.h"
#include "engram/text/tokenizer.h"

namespace engram {
namespace {

using namespace std::string_literals;

class FileOfAnotherKind : public ::testing::Test {
 protected:
  void TearDown() override { std::filesystem::remove(path_); }
  void write(const std::string& bytes) { throw_if_error(write_file_atomic(env_, path_, bytes)); }
  std::string text_error(const std::string& bytes) {
    write(bytes);
    return read_text_file(env_, path_).status().message();
  }

  Env& env_ = Env::posix();
  std::string path_ = ::testing::TempDir() + "kind-" + std::to_string(::getpid());
};

TEST_F(FileOfAnotherKind, GitLfsPointerInAnyPlace) {
  write("version https://git-lfs.github.com/spec/v1\noid sha256:" + std::string(64, 'a') + "\nsize 12345\n");
  const std::string wanted =
      path_ + ": this is a Git LFS pointer, not the file itself; fetch the file with `git lfs pull`";
  EXPECT_EQ(SafetensorsFile::open(env_, path_).status().message(), wanted);
  EXPECT_EQ(read_json_file(env_, path_).status().message(), wanted);
  EXPECT_EQ(Tokenizer::load(env_, path_).status().message(), wanted);
  EXPECT_EQ(read_text_file(env_, path_).status().message(), wanted);
}

TEST_F(FileOfAnotherKind, BinariesAsText) {
  const std::string tail(600, 'z');
  EXPECT_NE(text_error("PAR1" + tail).find("a Parquet table"), std::string::npos);
  EXPECT_NE(text_error("ARROW1\0\0"s + tail).find("an Arrow table"), std::string::npos);
  EXPECT_NE(text_error("\xFF\xFF\xFF\xFF\x78\0\0\0\x10\0\0\0"s + tail).find("an Arrow stream"), std::string::npos);
  EXPECT_NE(text_error("\x28\xB5\x2F\xFD" + tail).find("zstd -d"), std::string::npos);
  EXPECT_NE(text_error("\x1F\x8B\x08" + tail).find("gzip -d"), std::string::npos);
  EXPECT_NE(text_error("BZh9" + tail).find("bzip2 -d"), std::string::npos);
  EXPECT_NE(text_error("PK\x03\x04" + tail).find("a zip archive"), std::string::npos);
  EXPECT_NE(text_error("ENGRTOKS" + tail).find("a token shard"), std::string::npos);
  EXPECT_NE(text_error(std::string(257, 'n') + "ustar" + tail).find("a tar archive"), std::string::npos);
}

TEST_F(FileOfAnotherKind, JsonLinesAsText) {
  EXPECT_NE(text_error("{\"text\": \"one\"}\n{\"text\": \"two\"}\n").find("JSON lines, not text"), std::string::npos);
  path_ += ".jsonl";
  EXPECT_NE(text_error("{\"text\": \"one\"}").find("JSON lines, not text"), std::string::npos);
}

TEST_F(FileOfAnotherKind, TextStaysText) {
  for (const std::string& text :
       {""s, "BZ"s, "{"s, "version 2 of this"s, "Parquet"s, "{\"a\": 1}\n"s, "{\n  \"text\": \"pretty printed\"\n}\n"s,
        "{{ a template }}\n{{ another }}\n"s, "<!DOCTYPE html><html>text may be this</html>"s}) {
    EXPECT_EQ(text_error(text), "") << text;
  }
}

TEST_F(FileOfAnotherKind, ErrorPageAsShard) {
  write("<!DOCTYPE html>\n<html><head><title>404</title>" + std::string(600, ' '));
  EXPECT_NE(SafetensorsFile::open(env_, path_).status().message().find("an HTML page"), std::string::npos);
}

}  // namespace
}  // namespace engram
