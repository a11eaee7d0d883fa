// Work over whole tables: what `engram table create | convert | verify` do.
//
// Files appear complete or not at all (row_file.h); `resume` continues an interrupted create or convert. All of them
// stream: memory does not grow with the table. `progress` may be null, else it counts bytes of rows.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "engram/core/env.h"
#include "engram/core/progress.h"
#include "engram/core/status.h"
#include "engram/hash/token_map.h"
#include "engram/store/import/table_source.h"

namespace engram {

// A table of random rows in the shape of DeepSeek-V4.1 unless told otherwise: every row is there, none is a hole.
struct SyntheticOptions {
  EngramConfig config;  // vocab_size is chosen by plan_synthetic()
  RowType type = RowType::kFP8;
  uint64_t seed = 0;  // of the rows' values
  SyntheticOptions();
};

// The header of a file of about `file_bytes`: one start of the prime search for all orders, so that rows, pages and
// header come closest to it from below. `map` gives the hash its vocabulary. kInvalidArgument: too small for one page
// a layer, or the options do not make a layout.
Result<RowFileInfo> plan_synthetic(const SyntheticOptions& options, int64_t file_bytes, const TokenMap& map);
// Row `row` of a layer depends on (seed, layer id, row) only.
Status write_synthetic(Env& env, const std::string& path, const RowFileInfo& info, uint64_t seed, bool resume,
                       Progress* progress);

// Rows [first, first + count) of such a table, back to back: for stores without a file. Any thread.
Status make_synthetic_rows(const RowTable& table, uint64_t seed, int64_t first, int64_t count,
                           std::span<std::byte> out);

// The header that convert_table() writes. type: none keeps each table's own format.
Result<RowFileInfo> plan_convert(const TableSource& source, std::optional<RowType> type);
// kInvalidArgument names layer and row of a value that the format cannot hold.
Status convert_table(Env& env, const TableSource& source, const std::string& path, const RowFileInfo& info, bool resume,
                     Progress* progress);

struct VerifyReport {
  int64_t bytes = 0;
  int64_t damaged_pages = 0;
  std::string first_damage;  // one line that names file and page
};
// Every page of a row file. An error only where the file cannot be read at all.
Result<VerifyReport> verify_row_file(Env& env, const std::string& path, Progress* progress);
// A source without checksums: that every row can be read and holds finite numbers. kDataLoss names layer, row, column.
Status verify_values(const TableSource& source, Progress* progress);

int64_t count_row_bytes(const RowFileInfo& info);
int64_t count_row_bytes(const TableSource& source);

}  // namespace engram
