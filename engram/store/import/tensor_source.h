// TensorSource: tables in the safetensors files of a folder, each of one or more tensors whose rows follow each other.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "engram/formats/shard_set.h"
#include "engram/store/import/table_source.h"

namespace engram::import {

class TensorSource final : public TableSource {
 public:
  TensorSource(std::string kind, std::string path, ShardSet shards)
      : TableSource(std::move(kind), std::move(path)), shards_(std::move(shards)) {}

  ShardSet& shards() { return shards_; }
  // The pieces hold rows of table.format as they are, table.num_rows together.
  void add_table(SourceTable table, std::vector<TensorView> pieces) {
    tables_.push_back(std::move(table));
    pieces_.push_back(std::move(pieces));
  }
  void set_hash(RowFileHash hash) { hash_ = std::move(hash); }
  void set_hash_note(std::string note) { hash_note_ = std::move(note); }

 protected:
  Status do_read_rows(int table, int64_t first, int64_t count, std::byte* out) const override;
  Status check_unchanged() const override { return shards_.check_unchanged(); }

 private:
  ShardSet shards_;
  std::vector<std::vector<TensorView>> pieces_;
};

}  // namespace engram::import
