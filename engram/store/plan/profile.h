// RowProfile: how often a corpus asks for each row; what hot sets are chosen from (read_row_profile() in
// cached_store.h). Written by `engram plan --profile FILE`. Bytes: docs/formats/row_profile.md.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"

namespace engram {

struct RowProfile {
  struct Layer {
    int layer_id = 0;
    std::vector<int64_t> row_ids;  // by descending count, then ascending id; each once
    std::vector<uint32_t> counts;  // [row_ids], at least 1
  };
  int64_t num_tokens = 0;
  std::string token_map_sha256;  // of the table, "" where it has none
  std::vector<Layer> layers;

  // A safetensors file, whole or not at all.
  Status save(Env& env, const std::string& path) const;
};

}  // namespace engram
