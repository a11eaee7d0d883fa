// The C ABI (include/engram/engram.h): reads, rows as numbers, counters.
#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings/c_api.h"
#include "engram/core/json.h"
#include "engram/kernels/row_codec.h"

struct engram_pending {
  engram::Pending pending;
};

namespace engram {
namespace {

Status start_read(const engram_table* table, size_t layer, const int64_t* row_ids, size_t num_rows, void* rows,
                  size_t rows_bytes, engram_pending** out) {
  ENGRAM_RETURN_IF_ERROR(check_pointer(table, "table"));
  ENGRAM_RETURN_IF_ERROR(check_pointer(out, "pending"));
  ENGRAM_RETURN_IF_ERROR(check_layer(layer, table->layers.size()));
  ENGRAM_ASSIGN_OR_RETURN(const auto ids, array(row_ids, num_rows, "row_ids"));
  ENGRAM_ASSIGN_OR_RETURN(const auto bytes, array(static_cast<std::byte*>(rows), rows_bytes, "rows"));
  RowStore& store = *table->table.stores[layer];
  ENGRAM_RETURN_IF_ERROR(check_read(store, ids, bytes));
  *out = new engram_pending{store.read(ids, bytes)};
  return {};
}

// The new tokens of each sequence after its look-back, hashed for all layers.
Result<RowIds> hash_step(const MemoryHasher& hasher, std::span<const int32_t> token_ids,
                         std::span<const size_t> lengths, const int32_t* lookback) {
  const auto* canonical = reinterpret_cast<const CanonicalId*>(lookback);
  const auto before = static_cast<size_t>(hasher.layer(0).max_ngram_size()) - 1;
  RowIds row_ids(hasher.num_layers(), hasher.rows_per_token());
  row_ids.reserve(std::ssize(token_ids));
  size_t first = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    if (lengths[i] > token_ids.size() - first)
      return invalid_argument("lengths[{}] is {}, wanted at most the {} tokens that are left of {}", i, lengths[i],
                              token_ids.size() - first, token_ids.size());
    NgramContext context = hasher.new_context();
    if (canonical != nullptr)
      ENGRAM_RETURN_IF_ERROR(context.append_canonical({canonical + i * before, before})
                                 .with_context(fmt::format("lookback of sequence {}", i)));
    ENGRAM_RETURN_IF_ERROR(
        context.append(token_ids.subspan(first, lengths[i])).with_context(fmt::format("sequence {}", i)));
    hasher.hash(context, static_cast<int64_t>(lengths[i]), row_ids);
    first += lengths[i];
  }
  if (first != token_ids.size())
    return invalid_argument("lengths add up to {}, wanted the {} tokens", first, token_ids.size());
  return row_ids;
}

Status read_step(const engram_table* table, const engram_hasher* hasher, std::span<const int32_t> token_ids,
                 std::span<const size_t> lengths, const int32_t* lookback, void* const* rows, const size_t* rows_bytes,
                 engram_pending** out) {
  ENGRAM_RETURN_IF_ERROR(check_pointer(table, "table"));
  ENGRAM_RETURN_IF_ERROR(check_pointer(hasher, "hasher"));
  const size_t layers = table->layers.size();
  ENGRAM_ASSIGN_OR_RETURN(const auto outs, array(out, layers, "pending"));
  ENGRAM_ASSIGN_OR_RETURN(const auto buffers, array(rows, layers, "rows"));
  ENGRAM_ASSIGN_OR_RETURN(const auto sizes, array(rows_bytes, layers, "rows_bytes"));
  if (hasher->hasher.layers().size() != layers)
    return invalid_argument("the hasher has {} layers, the table {}", hasher->hasher.layers().size(), layers);
  ENGRAM_ASSIGN_OR_RETURN(const RowIds row_ids, hash_step(hasher->hasher, token_ids, lengths, lookback));
  std::vector<std::unique_ptr<engram_pending>> started(layers);  // waits for what it holds after an error
  for (size_t layer = 0; layer < layers; ++layer) {
    const std::span<const int64_t> ids = row_ids.layer(static_cast<int>(layer));
    engram_pending* one = nullptr;
    ENGRAM_RETURN_IF_ERROR(start_read(table, layer, ids.data(), ids.size(), buffers[layer], sizes[layer], &one)
                               .with_context(fmt::format("layer {}", layer)));
    started[layer].reset(one);
  }
  for (size_t layer = 0; layer < layers; ++layer) outs[layer] = started[layer].release();
  return {};
}

template <typename Value>
Status decode(const engram_table* table, size_t layer, const void* rows, size_t num_rows, Value* values,
              void (*decoder)(const RowFormat&, const std::byte*, size_t, int64_t, Value*)) {
  ENGRAM_RETURN_IF_ERROR(check_pointer(table, "table"));
  ENGRAM_RETURN_IF_ERROR(check_layer(layer, table->layers.size()));
  ENGRAM_ASSIGN_OR_RETURN(const auto from, array(static_cast<const std::byte*>(rows), num_rows, "rows"));
  ENGRAM_ASSIGN_OR_RETURN(const auto to, array(values, num_rows, "values"));
  const RowFormat& format = table->layers[layer].format;
  // A count that no memory can hold is a negative number or an uninitialised one.
  const auto most =
      SIZE_MAX / 2 /
      std::max(static_cast<size_t>(format.row_bytes()), static_cast<size_t>(format.width) * sizeof(Value));
  if (num_rows > most) return invalid_argument("num_rows is {}, wanted at most {}", num_rows, most);
  decoder(format, from.data(), static_cast<size_t>(format.row_bytes()), static_cast<int64_t>(num_rows), to.data());
  return {};
}

Status decode_sized(const engram_table* table, size_t layer, const void* rows, size_t rows_bytes, const char* dtype,
                    void* values, size_t values_bytes) {
  ENGRAM_RETURN_IF_ERROR(check_pointer(table, "table"));
  ENGRAM_RETURN_IF_ERROR(check_pointer(dtype, "dtype"));
  ENGRAM_RETURN_IF_ERROR(check_layer(layer, table->layers.size()));
  const bool is_float = std::strcmp(dtype, "float32") == 0;
  if (!is_float && std::strcmp(dtype, "bfloat16") != 0)
    return invalid_argument("dtype is {}, wanted float32 or bfloat16", quote_text(dtype));
  const RowFormat& format = table->layers[layer].format;
  const auto row_bytes = static_cast<size_t>(format.row_bytes());
  const size_t value_bytes = static_cast<size_t>(format.width) * (is_float ? sizeof(float) : sizeof(uint16_t));
  if (rows_bytes % row_bytes != 0)
    return invalid_argument("rows_bytes is {}, wanted a multiple of the {} bytes of a row", rows_bytes, row_bytes);
  const size_t num_rows = rows_bytes / row_bytes;
  if (values_bytes % value_bytes != 0 || values_bytes / value_bytes != num_rows)
    return invalid_argument("values_bytes is {}, wanted {} times the {} rows", values_bytes, value_bytes, num_rows);
  return is_float ? decode(table, layer, rows, num_rows, static_cast<float*>(values), decode_rows)
                  : decode(table, layer, rows, num_rows, static_cast<uint16_t*>(values), decode_rows_bf16);
}

// "layer" labels and counters of one layer, or of all.
Result<std::vector<std::pair<std::string, StoreStats>>> labelled_stats(const engram_table& table, size_t layer) {
  const bool all = layer == ENGRAM_ALL_LAYERS;
  if (!all) ENGRAM_RETURN_IF_ERROR(check_layer(layer, table.layers.size()));
  std::vector<std::pair<std::string, StoreStats>> result;
  for (size_t i = all ? 0 : layer; i < (all ? table.layers.size() : layer + 1); ++i)
    result.emplace_back(fmt::format("layer=\"{}\"", table.layers[i].layer_id), table.table.stores[i]->stats());
  return result;
}

engram_stats summarise(const StoreStats& stats) {
  engram_stats result{};
  result.reads = stats.reads;
  result.failed_reads = stats.failed_reads;
  result.rows = stats.rows;
  result.unique_rows = stats.unique_rows;
  result.retries = stats.retries;
  for (const TierStats& tier : stats.tiers) {
    if (tier.name == "hot" || tier.name == "cache" || tier.name == "dram") result.memory_rows += tier.hits;
    result.drive_pages += tier.pages;
    if (tier.pages > 0) result.drive_bytes += tier.bytes;
  }
  result.stall_us_mean = stats.stall.us_mean;
  result.stall_us_p50 = stats.stall.us_p50;
  result.stall_us_p99 = stats.stall.us_p99;
  result.stall_us_max = stats.stall.us_max;
  return result;
}

}  // namespace
}  // namespace engram

using engram::array;
using engram::check_layer;
using engram::check_pointer;
using engram::guarded;
using engram::number_of;
using engram::Status;

extern "C" {

engram_status engram_read(const engram_table* table, size_t layer, const int64_t* row_ids, size_t num_rows, void* rows,
                          size_t rows_bytes, engram_pending** pending) {
  return guarded([&] { return engram::start_read(table, layer, row_ids, num_rows, rows, rows_bytes, pending); });
}
engram_status engram_read_step(const engram_table* table, const engram_hasher* hasher, const int32_t* token_ids,
                               size_t num_tokens, const size_t* lengths, size_t num_sequences, const int32_t* lookback,
                               void* const* rows, const size_t* rows_bytes, engram_pending** pending) {
  return guarded([&]() -> Status {
    ENGRAM_ASSIGN_OR_RETURN(const auto tokens, array(token_ids, num_tokens, "token_ids"));
    ENGRAM_ASSIGN_OR_RETURN(const auto counts, array(lengths, num_sequences, "lengths"));
    return engram::read_step(table, hasher, tokens, counts, lookback, rows, rows_bytes, pending);
  });
}
int32_t engram_pending_done(const engram_pending* pending) {
  return number_of(pending, "pending", [](const engram_pending& one) { return one.pending.done() ? 1 : 0; });
}
engram_status engram_wait(engram_pending* pending) {
  return guarded([&]() -> Status {
    ENGRAM_RETURN_IF_ERROR(check_pointer(pending, "pending"));
    const std::unique_ptr<engram_pending> owned(pending);
    return owned->pending.wait();
  });
}

engram_status engram_prefetch(const engram_table* table, size_t layer, const int64_t* row_ids, size_t num_rows) {
  return guarded([&]() -> Status {
    ENGRAM_RETURN_IF_ERROR(check_pointer(table, "table"));
    ENGRAM_RETURN_IF_ERROR(check_layer(layer, table->layers.size()));
    ENGRAM_ASSIGN_OR_RETURN(const auto ids, array(row_ids, num_rows, "row_ids"));
    table->table.stores[layer]->prefetch(ids);
    return {};
  });
}

engram_status engram_decode_float(const engram_table* table, size_t layer, const void* rows, size_t num_rows,
                                  float* values) {
  return guarded([&] { return engram::decode(table, layer, rows, num_rows, values, engram::decode_rows); });
}
engram_status engram_decode_bfloat16(const engram_table* table, size_t layer, const void* rows, size_t num_rows,
                                     uint16_t* values) {
  return guarded([&] { return engram::decode(table, layer, rows, num_rows, values, engram::decode_rows_bf16); });
}

engram_status engram_decode(const engram_table* table, size_t layer, const void* rows, size_t rows_bytes,
                            const char* dtype, void* values, size_t values_bytes) {
  return guarded([&] { return engram::decode_sized(table, layer, rows, rows_bytes, dtype, values, values_bytes); });
}

engram_status engram_table_stats(const engram_table* table, size_t layer, engram_stats* stats) {
  return guarded([&]() -> Status {
    ENGRAM_RETURN_IF_ERROR(check_pointer(table, "table"));
    ENGRAM_RETURN_IF_ERROR(check_layer(layer, table->layers.size()));
    return engram::copy_out(engram::summarise(table->table.stores[layer]->stats()), "engram_stats", stats);
  });
}

int64_t engram_table_stats_text(const engram_table* table, size_t layer, const char* format, char* text,
                                size_t capacity) {
  std::string whole;
  const engram_status status = guarded([&]() -> Status {
    ENGRAM_RETURN_IF_ERROR(check_pointer(table, "table"));
    ENGRAM_RETURN_IF_ERROR(check_pointer(format, "format"));
    const std::string wanted = format;
    if (wanted != "json" && wanted != "prometheus")
      return engram::invalid_argument("format is '{}', wanted json or prometheus", wanted);
    if (wanted == "json") ENGRAM_RETURN_IF_ERROR(check_layer(layer, table->layers.size()));
    ENGRAM_ASSIGN_OR_RETURN(const auto stats, engram::labelled_stats(*table, layer));
    whole = wanted == "json" ? stats[0].second.to_json().dump() : engram::to_prometheus(stats);
    return {};
  });
  if (status != ENGRAM_OK) return -1;
  if (text != nullptr && capacity > 0) {
    const size_t kept = std::min(whole.size(), capacity - 1);
    std::memcpy(text, whole.data(), kept);
    text[kept] = '\0';
  }
  return static_cast<int64_t>(whole.size());
}

}  // extern "C"
