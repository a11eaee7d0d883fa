// What the store's tests share: a scratch folder, row files whose every byte is known, and whole-file edits.
#pragma once
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/port/reads.h"
#include "engram/store/rowfile/row_file.h"

namespace engram {

class StoreTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "engram_store_XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { throw_if_error(Env::posix().remove_directory_recursively(folder_)); }

  std::string path(const std::string& name) const { return join_path(folder_, name); }
  std::string contents_of(const std::string& name) const { return value_or_throw(Env::posix().read_file(path(name))); }
  void write(const std::string& name, std::string_view bytes) const {
    auto file = value_or_throw(Env::posix().new_writable_file(path(name)));
    throw_if_error(file->append(std::as_bytes(std::span(bytes))));
    throw_if_error(file->close());
  }
  std::vector<std::string> files() const { return value_or_throw(Env::posix().list_directory(folder_)); }

  std::string folder_;
};

// The byte that stands at `offset` of a row of the files below.
inline std::byte row_byte(int layer_id, int64_t row, int64_t offset) {
  const uint64_t mixed = (static_cast<uint64_t>(row) * 0x9E3779B97F4A7C15u + static_cast<uint64_t>(layer_id) * 77 +
                          static_cast<uint64_t>(offset) * 0xD1B54A32D192ED03u);
  return static_cast<std::byte>(mixed >> 40);
}

inline std::vector<std::byte> expected_rows(const RowTable& table, int64_t first_row, int64_t count) {
  std::vector<std::byte> bytes;
  bytes.reserve(static_cast<size_t>(count * table.row_bytes));
  for (int64_t row = first_row; row < first_row + count; ++row) {
    for (int64_t i = 0; i < table.row_bytes; ++i) bytes.push_back(row_byte(table.layer_id, row, i));
  }
  return bytes;
}

// Appends what `writer` still lacks, `step` rows at a time.
inline Status append_rest(RowFileWriter& writer, const RowFileInfo& info, int64_t step = 100) {
  while (writer.next_table() < static_cast<int>(info.tables.size())) {
    const RowTable& table = info.tables[static_cast<size_t>(writer.next_table())];
    const int64_t count = std::min(step, table.num_rows - writer.next_row());
    ENGRAM_RETURN_IF_ERROR(writer.append(expected_rows(table, writer.next_row(), count)));
  }
  return {};
}

inline Status write_row_file(Env& env, const std::string& path, const RowFileInfo& info) {
  ENGRAM_ASSIGN_OR_RETURN(auto writer, RowFileWriter::create(env, path, info));
  ENGRAM_RETURN_IF_ERROR(append_rest(*writer, info));
  return writer->finish();
}

inline RowTable make_table(int layer_id, int64_t num_rows, RowFormat format) {
  RowTable table;
  table.layer_id = layer_id;
  table.num_rows = num_rows;
  table.format = format;
  return table;
}

// Rows of V4.1's 264 bytes, of a size that leaves no padding (584 bytes, 7 a page), and of several pages each.
inline RowFileInfo test_row_file_info(int64_t scale = 1) {
  return value_or_throw(RowFileInfo::create(
      {make_table(1, 1000 * scale + 7, {RowType::kFP8, 256, 32}), make_table(5, 100 * scale, {RowType::kFP32, 146}),
       make_table(14, 3 * scale, {RowType::kFP32, 2500})},
      std::nullopt));
}

inline std::vector<int64_t> random_ids(std::mt19937_64& random, int64_t num_rows, size_t count) {
  std::vector<int64_t> ids(count);
  // A third of them from a few rows, as text has it.
  for (int64_t& id : ids)
    id = static_cast<int64_t>(random() %
                              static_cast<uint64_t>(random() % 3 == 0 ? std::min<int64_t>(5, num_rows) : num_rows));
  return ids;
}

inline bool has_read_ring() {
  std::byte buffer[512];
  int error = 0;
  return port::open_read_ring({STDIN_FILENO, buffer, 1}, error) != nullptr;
}

// The rows of `ids` as they must come back.
inline std::vector<std::byte> wanted_rows(const RowTable& table, std::span<const int64_t> ids) {
  std::vector<std::byte> bytes;
  bytes.reserve(ids.size() * static_cast<size_t>(table.row_bytes));
  for (int64_t id : ids) {
    for (int64_t i = 0; i < table.row_bytes; ++i) bytes.push_back(row_byte(table.layer_id, id, i));
  }
  return bytes;
}

}  // namespace engram
