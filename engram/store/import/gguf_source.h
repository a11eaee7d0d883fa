// GgufSource: tables in a GGUF file, and what its dialects share. Nothing here is for other rooms.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engram/formats/ggml_rows.h"
#include "engram/formats/gguf.h"
#include "engram/store/import/table_source.h"

namespace engram::import {

inline constexpr uint64_t kMaxList = 1 << 16;  // primes and the like

// How a stored row becomes a row of the table's format.
enum class Storage { kAsIs, kQ8, kGgml, kLloyd4 };

// Rows of a table that lie together.
struct StoredRows {
  Storage storage = Storage::kAsIs;
  const GgmlType* type = nullptr;
  int64_t stored_bytes = 0;  // per row
  int64_t num_rows = 0;
  std::span<const std::byte> bytes;
};

class GgufSource final : public TableSource {
 public:
  GgufSource(std::string kind, GgufFile file) : TableSource(std::move(kind), file.path()), file_(std::move(file)) {}

  const GgufFile& file() const { return file_; }
  // The pieces have table.num_rows together, and the table's format.
  void add_table(SourceTable table, std::vector<StoredRows> pieces) {
    tables_.push_back(std::move(table));
    pieces_.push_back(std::move(pieces));
  }
  void keep(std::unique_ptr<MappedFile> sidecar) { sidecars_.push_back(std::move(sidecar)); }
  void set_hash(RowFileHash hash) { hash_ = std::move(hash); }
  void set_hash_note(std::string note) { hash_note_ = std::move(note); }

 protected:
  Status do_read_rows(int table, int64_t first, int64_t count, std::byte* out) const override;
  Status check_unchanged() const override;

 private:
  GgufFile file_;
  std::vector<std::vector<StoredRows>> pieces_;
  std::vector<std::unique_ptr<MappedFile>> sidecars_;
};

// kInvalidArgument names the key.
Status compare(const GgufFile& file, const std::string& key, const std::vector<int64_t>& got,
               const std::vector<int64_t>& wanted);
// Format and storage of one table. row_size: bytes for the packed encodings, columns for ggml's own types.
Status choose_storage(const std::string& encoding, uint32_t type, int64_t row_size, SourceTable* table,
                      StoredRows* stored);
// table->num_rows rows from the first of these bytes on. kDataLoss when they end before the rows.
Status take_bytes(const std::string& where, std::span<const std::byte> available, const SourceTable& table,
                  StoredRows* stored);
// One table of tensors whose rows follow each other, num_rows of each.
Status add_inner_table(GgufSource& source, const std::vector<std::string>& names, int layer_id,
                       const std::vector<int64_t>& num_rows, const std::string& encoding);

// The dialects of rules of raw ids.
Result<std::unique_ptr<TableSource>> open_ple_gguf(GgufFile file);
Result<std::unique_ptr<TableSource>> open_longcat_gguf(GgufFile file, const std::string& architecture);

}  // namespace engram::import
