// TextReader: tokens -> the rows of every layer of a row file, in one call: what a serving engine does before a step.
#pragma once
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "engram/core/env.h"
#include "engram/hash/memory_hasher.h"
#include "engram/store/open.h"

namespace engram::bench {

struct TextReader {
  OpenTable table;
  MemoryHasher hasher;
  std::unique_ptr<std::vector<std::vector<std::byte>>> rows;  // [layers][tokens, R, row_bytes]

  // Room for `max_tokens` a call.
  static Result<TextReader> open(Env& env, std::string_view uri, const TokenMap& map, int64_t max_tokens) {
    TextReader out;
    ENGRAM_ASSIGN_OR_RETURN(out.table, open_row_stores(env, uri));
    ENGRAM_ASSIGN_OR_RETURN(out.hasher, out.table.info.hasher(map, out.table.layer_ids));
    out.rows = std::make_unique<std::vector<std::vector<std::byte>>>();
    for (const auto& store : out.table.stores)
      out.rows->emplace_back(static_cast<size_t>(max_tokens * out.hasher.rows_per_token()) * store->row_bytes());
    return out;
  }
  Status read(std::span<const int32_t> tokens) const {
    ENGRAM_ASSIGN_OR_RETURN(const RowIds ids, hasher.hash(tokens));
    std::vector<Pending> reads;
    for (size_t layer = 0; layer < table.stores.size(); ++layer) {
      const std::span<const int64_t> of_layer = ids.layer(static_cast<int>(layer));
      RowStore& store = *table.stores[layer];
      reads.push_back(store.read(of_layer, std::span((*rows)[layer]).first(of_layer.size() * store.row_bytes())));
    }
    Status status;
    for (Pending& read : reads) {
      Status ended = read.wait();
      if (status.ok()) status = std::move(ended);
    }
    return status;
  }
};

}  // namespace engram::bench
