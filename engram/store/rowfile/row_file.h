// Row files: the embedding rows of all layers in one file of checked 4 KiB pages. Bytes: docs/formats/row_file.md.
//
// A header (JSON over one or more pages) names the layers, how their rows are encoded, where they start, and how row
// ids are hashed; then every layer's pages follow. A row never crosses a page; a row larger than a page starts on one.
// Each page ends in its own number and a CRC-32C of its other bytes, so that every reader sees
// a flipped, torn or misplaced page. Rows are opaque here: decoding them is kernels/row_codec.h.
//
// Files are hostile: everything in a header is checked against the file's size before use.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"
#include "engram/hash/memory_hasher.h"
#include "engram/kernels/row_format.h"

namespace engram {

inline constexpr int64_t kRowPageBytes = 4096;
inline constexpr int64_t kRowPagePayload = 4088;  // then u32 page number (low 32 bits), u32 CRC-32C of 4092 bytes
inline constexpr int64_t kMaxRowsPerTable = int64_t{1} << 48;
inline constexpr int64_t kMaxRowTables = 1024;

// One layer's rows. RowFileInfo::create() fills in all but layer_id, num_rows and format.
struct RowTable {
  int layer_id = 0;  // 0-based block id
  int64_t num_rows = 0;
  RowFormat format;
  int64_t row_bytes = 0;      // format.row_bytes()
  int64_t rows_per_page = 0;  // 0 where a row takes several pages
  int64_t pages_per_row = 1;
  int64_t first_page = 0;
  int64_t num_pages = 0;

  // Where a row begins. A row of several pages continues at the start of each next page, kRowPagePayload bytes a page.
  // REQUIRES: 0 <= row < num_rows.
  int64_t page_of(int64_t row) const {
    return first_page + (rows_per_page > 0 ? row / rows_per_page : row * pages_per_row);
  }
  int64_t offset_of(int64_t row) const { return rows_per_page > 0 ? row % rows_per_page * row_bytes : 0; }
};

// How token ids become row ids of this file: enough to rebuild hash/layout.h's tables and to refuse a wrong tokenizer.
struct RowFileHash {
  EngramConfig config;           // of the whole model; the file may hold only some of config.layer_ids
  int compressed_pad_id = 0;     // EngramLayout::compressed_pad_id()
  std::string token_map_sha256;  // TokenMap::sha256(), 64 lower-case hex digits

  // As the header has it (docs/formats/row_file.md).
  nlohmann::ordered_json to_json() const;
};

// What a header says. Plain value.
struct RowFileInfo {
  std::vector<RowTable> tables;
  std::optional<RowFileHash> hash;  // none: the rows of a table that is hashed elsewhere
  int64_t header_pages = 0;
  int64_t num_pages = 0;  // of the file

  // Places the tables. kInvalidArgument names the layer: none at all, a layer twice, rows or format out of range, or
  // a `hash` that does not have the layer or gives it another row width or row count.
  static Result<RowFileInfo> create(std::vector<RowTable> tables, std::optional<RowFileHash> hash);
  // The header of a file of `file_bytes`, from its first pages. kDataLoss: what, got, wanted; `name` is the file's.
  static Result<RowFileInfo> parse(std::span<const std::byte> header, int64_t file_bytes, const std::string& name);
  // The same from a file. Reads whole pages into memory aligned to them, as O_DIRECT wants it.
  static Result<RowFileInfo> read(const RandomAccessFile& file, const std::string& name);
  // The header's pages as in the file.
  std::string header_bytes() const;

  int64_t file_bytes() const { return num_pages * kRowPageBytes; }
  // Position of a layer in `tables`. kNotFound lists the layers there are.
  Result<int> find_layer(int layer_id) const;
  // Primes, offsets and multipliers, and whether they give the rows of every table. kFailedPrecondition: no hash.
  Result<EngramLayout> layout() const;
  // Hashes for these layers, in this order; empty: those of `tables`. kFailedPrecondition: no hash, or the file was
  // made for another tokenizer.
  Result<MemoryHasher> hasher(const TokenMap& map, std::span<const int> layer_ids = {}) const;
  // kFailedPrecondition: the file was made for another tokenizer.
  Status check_token_map(const TokenMap& map) const;
};

// Writes a page's number and checksum after its payload. REQUIRES: kRowPageBytes.
void seal_row_page(std::span<std::byte> page, int64_t number);
// kDataLoss names `name`, the page and what is wrong: its checksum, or the number of another page.
Status check_row_page(std::span<const std::byte> page, int64_t number, const std::string& name);
// Plain sequential access for tools and loaders; the tiers are row_store.h. Move-only; const methods from any thread.
class RowFileReader {
 public:
  // Reads the header only. kNotFound; kDataLoss.
  static Result<RowFileReader> open(Env& env, const std::string& path);
  const RowFileInfo& info() const { return info_; }
  const std::string& path() const { return path_; }

  // Whole pages, each checked; a page that fails is read once more. kDataLoss names file and page; kOutOfRange.
  Status read_pages(int64_t first_page, std::span<std::byte> pages) const;
  // Rows [first_row, first_row + count) of tables[table], back to back. `out` has count * row_bytes.
  Status read_rows(int table, int64_t first_row, int64_t count, std::span<std::byte> out) const;

 private:
  std::string path_;
  std::unique_ptr<RandomAccessFile> file_;
  RowFileInfo info_;
};

// Streams rows into a file that appears under its name only in finish(), complete and synced. Until then they are in
// `path` + ".partial", which stays when the writer is destroyed: create() with `resume` continues after its last good
// page, also after a crash or a power cut. Not thread-safe.
class RowFileWriter {
 public:
  // resume: continue a .partial whose header is exactly this one (otherwise start again).
  static Result<std::unique_ptr<RowFileWriter>> create(Env& env, const std::string& path, const RowFileInfo& info,
                                                       bool resume = false);
  ~RowFileWriter();

  // The row that append() takes next, as a position in info.tables and a row of it; (tables.size(), 0) at the end.
  int next_table() const;
  int64_t next_row() const;
  // Whole rows of the current table, at most those that it still lacks; kInvalidArgument otherwise, and nothing is
  // written. After an error of the file every later call returns that error; what is on disk can be resumed.
  Status append(std::span<const std::byte> rows);
  // kFailedPrecondition: rows are missing.
  Status finish();

 private:
  struct Impl;
  explicit RowFileWriter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace engram
