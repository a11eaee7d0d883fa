// TableSource: the tables of a model as another program stored them, read in place.
//
// open_table_source() knows, by content:
//   a row file               row_file.h
//   DeepSeek-V4.1            a folder with config.json (nested or flat keys) and safetensors shards: F8_E4M3 rows with
//                            their F8_E8M0 or U8 scales in a separate tensor; tiled scales are refused
//   Qwen4Exp PLE             a folder as above: BF16 or F32 shards, or F8_E4M3 with one scale
//   LongCat                  a folder as above: a BF16 or F32 tensor for each order and split
//   GGUF                     one file or its parts: llama.cpp's keys (any quantisation with a decoder in ggml_rows.h),
//                            antirez's packed rows (row264, row136), other forks' spellings, qwen4exp, longcat; also
//                            tables beside the file
//   our own checkpoints      docs/formats/checkpoint.md; an OUTPUT folder means its latest
// Rows come in the format nearest to the stored one that loses nothing: fp8, bf16 and fp32 as they are, Q8_0 as int8
// with a scale per 32, every other quantisation decoded to fp32.
//
// Files are hostile. What does not fit is refused in one line: the number of rows against the sum of the primes that
// the configuration gives, stored primes, offsets and multipliers against computed ones, the vocabulary against its
// compressed size, shapes and dtypes. Foreign files carry no checksums: what passes may still hold a flipped bit.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"
#include "engram/kernels/row_format.h"
#include "engram/store/rowfile/row_file.h"

namespace engram {

struct SourceTable {
  int layer_id = 0;  // 0-based block id
  int64_t num_rows = 0;
  RowFormat format;      // of the bytes that read_rows() gives
  std::string encoding;  // as stored: "F8_E4M3 + U8", "Q4_K"
};

// Immutable after opening; threads may share one.
class TableSource {
 public:
  virtual ~TableSource() = default;
  TableSource(const TableSource&) = delete;
  TableSource& operator=(const TableSource&) = delete;

  const std::string& kind() const { return kind_; }  // "DeepSeek-V4.1 safetensors"
  const std::string& path() const { return path_; }
  const std::vector<SourceTable>& tables() const { return tables_; }
  // How token ids become row ids; none where the source does not say enough, and then hash_note() says what is missing.
  const std::optional<RowFileHash>& hash() const { return hash_; }
  const std::string& hash_note() const { return hash_note_; }
  // Position in tables(). kNotFound lists the layers there are.
  Result<int> find_layer(int layer_id) const;

  // Rows [first, first + count) of tables()[table], back to back in its format.
  //   kInvalidArgument  out.size() is not count * row_bytes, or no such table
  //   kOutOfRange       a row beyond num_rows
  //   kDataLoss         a row file's checksums; another file that was cut or written to since it was opened
  Status read_rows(int table, int64_t first, int64_t count, std::span<std::byte> out) const;
  // Single rows as floats: out [ids, width]. kOutOfRange names the id.
  Status read_values(int table, std::span<const int64_t> row_ids, std::span<float> out) const;

 protected:
  TableSource(std::string kind, std::string path) : kind_(std::move(kind)), path_(std::move(path)) {}
  // The range has been checked.
  virtual Status do_read_rows(int table, int64_t first, int64_t count, std::byte* out) const = 0;
  // Asked after reading: whether mapped files were cut or written to since they were opened.
  virtual Status check_unchanged() const { return {}; }

  std::string kind_, path_;
  std::vector<SourceTable> tables_;
  std::optional<RowFileHash> hash_;
  std::string hash_note_;
};

// tokenizer: a tokenizer.json to take the place of the folder's own, or for a source that has none; "" for none.
// kNotFound; kInvalidArgument or kDataLoss: what, where, got, wanted.
Result<std::unique_ptr<TableSource>> open_table_source(Env& env, const std::string& path,
                                                       const std::string& tokenizer = "");

}  // namespace engram
