// What the tests of this room share: a folder that goes away, and shards made from plain vectors.
#pragma once
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "engram/data/token_shard.h"

namespace engram {

using Documents = std::vector<std::vector<int32_t>>;

inline const std::string kDigest(64, 'a');

class DataTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    const std::string name = fmt::format("engram_{}_{}_{}", info->test_suite_name(), info->name(), ::getpid());
    folder_ = std::filesystem::temp_directory_path() / name;
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string path(const std::string& name) const { return folder_ + "/" + name; }

  std::string contents_of(const std::string& name) const {
    std::ifstream file(path(name), std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  void write(const std::string& name, const std::string& contents) const {
    std::ofstream(path(name), std::ios::binary) << contents;
  }
  std::vector<std::string> files() const { return value_or_throw(Env::posix().list_directory(folder_)); }

  TokenShard make_shard(const std::string& name, const Documents& documents, int32_t vocab_size,
                        const std::string& digest = kDigest) const {
    auto writer = value_or_throw(TokenShardWriter::create(Env::posix(), path(name), vocab_size, digest));
    for (const auto& document : documents) throw_if_error(writer->append_document(document, 3));
    (void)value_or_throw(writer->finish());
    return value_or_throw(TokenShard::open(Env::posix(), path(name)));
  }

  // first_counted of each document.
  TokenShard make_masked_shard(const std::string& name, const Documents& documents,
                               const std::vector<int64_t>& first_counted, int32_t vocab_size) const {
    auto writer =
        value_or_throw(TokenShardWriter::create(Env::posix(), path(name), vocab_size, kDigest, /*masked=*/true));
    for (size_t d = 0; d < documents.size(); ++d)
      throw_if_error(writer->append_document(documents[d], 3, first_counted[d], 2));
    (void)value_or_throw(writer->finish());
    return value_or_throw(TokenShard::open(Env::posix(), path(name)));
  }

  std::string folder_;
};

}  // namespace engram
