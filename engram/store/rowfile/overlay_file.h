// Overlay: the file of a few edited rows of a row file. docs/formats/overlay.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/formats/safetensors.h"
#include "engram/store/rowfile/row_file.h"

namespace engram {

// What an overlay's file holds. Plain value.
struct Overlay {
  struct Layer {
    int layer_id = 0;
    std::vector<int64_t> row_ids;    // ascending, each once
    std::vector<std::byte> rows;     // [n, row_bytes], encoded as the table's
    std::vector<uint32_t> replaced;  // [n] CRC-32C of the rows that these take the place of
  };
  std::string path;  // for messages
  std::vector<Layer> layers;

  // kFailedPrecondition: made for a table with another header. kDataLoss: what, got, wanted.
  static Result<Overlay> load(Env& env, const std::string& path, const RowFileInfo& table);
  static Result<Overlay> parse(const SafetensorsFile& file, const RowFileInfo& table);
  // REQUIRES: layers of the table, rows of their sizes.
  Status save(Env& env, const RowFileInfo& table) const;
};

}  // namespace engram
