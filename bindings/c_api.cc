// The C ABI (include/engram/engram.h) over hasher, stores and codec. Nothing throws across it: guarded() is the border.
#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "engram/core/json.h"
#include "engram/engram.h"
#include "engram/hash/memory_hasher.h"
#include "engram/kernels/row_codec.h"
#include "engram/store/open.h"
#include "engram/text/tokenizer.h"

struct engram_hasher {
  engram::MemoryHasher hasher;
};

struct engram_table {
  engram::OpenTable table;
  std::vector<engram::RowTable> layers;  // in the order of table.stores
};

struct engram_pending {
  engram::Pending pending;
};

namespace engram {
namespace {

static_assert(static_cast<int>(StatusCode::kDataLoss) == ENGRAM_DATA_LOSS);
static_assert(static_cast<int>(StatusCode::kOutOfRange) == ENGRAM_OUT_OF_RANGE);

thread_local std::string last_error;

engram_status finish(const Status& status) {
  if (!status.ok()) last_error = status.message();
  return static_cast<engram_status>(status.code());
}

// Runs a function that returns a Status.
template <typename Function>
engram_status guarded(Function function) noexcept {
  try {
    return finish(function());
  } catch (const std::bad_alloc&) {
    last_error = "out of memory";
    return ENGRAM_RESOURCE_EXHAUSTED;
  } catch (const std::exception& error) {
    last_error = error.what();
    return ENGRAM_INTERNAL;
  }
}

Status check_pointer(const void* pointer, const char* name) {
  return pointer == nullptr ? invalid_argument("{} is NULL", name) : Status();
}

// The caller's struct as this library's, fields that the caller does not know as 0.
template <typename Struct>
Status copy_in(const Struct* from, const char* name, Struct* to) {
  ENGRAM_RETURN_IF_ERROR(check_pointer(from, name));
  if (from->size < sizeof(size_t)) return invalid_argument("{}.size is {}, wanted sizeof({})", name, from->size, name);
  *to = Struct{};
  std::memcpy(to, from, std::min(from->size, sizeof(Struct)));
  return {};
}

// What the caller has room for; its `size` stays.
template <typename Struct>
Status copy_out(const Struct& from, const char* name, Struct* to) {
  ENGRAM_RETURN_IF_ERROR(check_pointer(to, name));
  const size_t size = to->size;
  if (size < sizeof(size_t)) return invalid_argument("{}.size is {}, wanted sizeof({})", name, size, name);
  std::memcpy(to, &from, std::min(size, sizeof(Struct)));
  to->size = size;
  return {};
}

// An array of the caller's; NULL only where it is empty.
template <typename T>
Result<std::span<T>> array(T* data, size_t count, const char* name) {
  if (data == nullptr && count > 0) return invalid_argument("{} is NULL, wanted {} elements", name, count);
  return std::span<T>(data, count);
}

Status check_layer(size_t layer, size_t layers) {
  return layer < layers ? Status() : invalid_argument("layer is {}, wanted 0 .. {}", layer, layers - 1);
}

Result<TokenMap> load_map(const char* tokenizer, const EngramConfig& config) {
  ENGRAM_ASSIGN_OR_RETURN(const Tokenizer loaded, Tokenizer::load(Env::posix(), tokenizer));
  return make_token_map(config, loaded);
}

Result<TokenMap> map_of(const engram_hash_config& config) {
  if (config.tokenizer != nullptr) {
    if (config.token_map != nullptr) return invalid_argument("config has a tokenizer and a token_map, wanted one");
    return load_map(config.tokenizer, {});
  }
  if (config.token_map == nullptr) {
    if (config.compressed_vocab_size < 1)
      return invalid_argument("compressed_vocab_size is {}, wanted at least 1", config.compressed_vocab_size);
    return TokenMap::identity(config.compressed_vocab_size);
  }
  std::vector<int32_t> ids(config.token_map, config.token_map + config.token_map_size);
  return TokenMap::from_ids(std::move(ids), config.compressed_vocab_size);
}

Result<EngramConfig> config_of(const engram_hash_config& c, const TokenMap& map) {
  EngramConfig config;
  if (c.rule != nullptr) {
    ENGRAM_ASSIGN_OR_RETURN(config.rule, parse_hash_rule(c.rule));
  }
  ENGRAM_ASSIGN_OR_RETURN(const auto layer_ids, array(c.layer_ids, c.num_layers, "config.layer_ids"));
  config.layer_ids.assign(layer_ids.begin(), layer_ids.end());
  config.max_ngram_size = c.max_ngram_size;
  config.n_heads = c.n_heads;
  config.head_dim = 1;  // no part of the hash
  if (c.max_ngram_size < 2) return invalid_argument("max_ngram_size is {}, wanted at least 2", c.max_ngram_size);
  const bool has_sizes = config.rule != HashRule::kLongcat;
  ENGRAM_ASSIGN_OR_RETURN(
      const auto sizes,
      array(c.vocab_size, has_sizes ? static_cast<size_t>(c.max_ngram_size - 1) : 0, "config.vocab_size"));
  config.vocab_size.assign(sizes.begin(), sizes.end());
  config.vocab_size_ratio = c.vocab_size_ratio;
  config.seed = c.seed;
  config.pad_token_id = c.pad_token_id;
  config.compressed_vocab_size = map.compressed_vocab_size();
  if (c.compressed_vocab_size != 0 && c.compressed_vocab_size != map.compressed_vocab_size())
    return invalid_argument("compressed_vocab_size is {}, the tokenizer's is {}", c.compressed_vocab_size,
                            map.compressed_vocab_size());
  return config;
}

Status create_hasher(const engram_hash_config* given, engram_hasher** out) {
  engram_hash_config config;
  ENGRAM_RETURN_IF_ERROR(copy_in(given, "engram_hash_config", &config));
  ENGRAM_RETURN_IF_ERROR(check_pointer(out, "hasher"));
  ENGRAM_ASSIGN_OR_RETURN(TokenMap map, map_of(config));
  ENGRAM_ASSIGN_OR_RETURN(const EngramConfig parsed, config_of(config, map));
  ENGRAM_ASSIGN_OR_RETURN(const EngramLayout layout, EngramLayout::create(parsed, map));
  ENGRAM_ASSIGN_OR_RETURN(MemoryHasher hasher, MemoryHasher::create(layout, map));
  *out = new engram_hasher{std::move(hasher)};
  return {};
}

Status create_table_hasher(const engram_table* table, const char* tokenizer, engram_hasher** out) {
  ENGRAM_RETURN_IF_ERROR(check_pointer(table, "table"));
  ENGRAM_RETURN_IF_ERROR(check_pointer(out, "hasher"));
  const RowFileInfo& info = table->table.info;
  ENGRAM_ASSIGN_OR_RETURN(const EngramLayout layout, info.layout());
  TokenMap map = TokenMap::identity(layout.config().compressed_vocab_size);
  if (tokenizer != nullptr) {
    ENGRAM_ASSIGN_OR_RETURN(map, load_map(tokenizer, layout.config()));
  }
  ENGRAM_ASSIGN_OR_RETURN(MemoryHasher hasher, info.hasher(map, table->table.layer_ids));
  *out = new engram_hasher{std::move(hasher)};
  return {};
}

Status open_table(const char* uri, engram_table** out) {
  ENGRAM_RETURN_IF_ERROR(check_pointer(uri, "uri"));
  ENGRAM_RETURN_IF_ERROR(check_pointer(out, "table"));
  ENGRAM_ASSIGN_OR_RETURN(OpenTable opened, open_row_stores(Env::posix(), uri));
  auto table = std::make_unique<engram_table>(engram_table{std::move(opened), {}});
  for (const int layer_id : table->table.layer_ids) {
    ENGRAM_ASSIGN_OR_RETURN(const int position, table->table.info.find_layer(layer_id));
    table->layers.push_back(table->table.info.tables[static_cast<size_t>(position)]);
  }
  *out = table.release();
  return {};
}

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

// What an accessor without a status gives for NULL: -1, and the message.
template <typename Handle, typename Function>
auto number_of(const Handle* handle, const char* name, Function get) noexcept -> decltype(get(*handle)) {
  if (guarded([&] { return check_pointer(handle, name); }) != ENGRAM_OK) return -1;
  return get(*handle);
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

const char* engram_last_error(void) { return engram::last_error.c_str(); }
const char* engram_status_name(engram_status status) {
  const bool known = status >= ENGRAM_OK && status <= ENGRAM_DATA_LOSS;
  return known ? engram::status_code_name(static_cast<engram::StatusCode>(status)) : "unknown";
}
int32_t engram_abi_version(void) { return ENGRAM_ABI_VERSION; }

engram_status engram_hasher_create(const engram_hash_config* config, engram_hasher** hasher) {
  return guarded([&] { return engram::create_hasher(config, hasher); });
}
void engram_hasher_free(engram_hasher* hasher) { delete hasher; }
int32_t engram_hasher_rows_per_token(const engram_hasher* hasher) {
  return number_of(hasher, "hasher", [](const engram_hasher& one) { return one.hasher.rows_per_token(); });
}
int32_t engram_hasher_num_layers(const engram_hasher* hasher) {
  return number_of(hasher, "hasher", [](const engram_hasher& one) { return one.hasher.num_layers(); });
}
int64_t engram_hasher_num_rows(const engram_hasher* hasher, size_t layer) {
  return number_of(hasher, "hasher", [&](const engram_hasher& one) {
    return layer < one.hasher.layers().size() ? one.hasher.layers()[layer].num_rows() : int64_t{-1};
  });
}

engram_status engram_hash(const engram_hasher* hasher, size_t layer, const int32_t* token_ids, size_t num_tokens,
                          const int32_t* starts, size_t num_starts, const int32_t* lookback, size_t num_lookback,
                          int64_t* row_ids) {
  return guarded([&]() -> Status {
    ENGRAM_RETURN_IF_ERROR(check_pointer(hasher, "hasher"));
    ENGRAM_RETURN_IF_ERROR(check_layer(layer, hasher->hasher.layers().size()));
    const engram::NgramHasher& one = hasher->hasher.layers()[layer];
    ENGRAM_ASSIGN_OR_RETURN(const auto tokens, array(token_ids, num_tokens, "token_ids"));
    ENGRAM_ASSIGN_OR_RETURN(const auto begins, array(starts, num_starts, "starts"));
    ENGRAM_ASSIGN_OR_RETURN(const auto before, array(lookback, num_lookback, "lookback"));
    ENGRAM_ASSIGN_OR_RETURN(const auto out,
                            array(row_ids, num_tokens * static_cast<size_t>(one.rows_per_token()), "row_ids"));
    if (num_lookback >= static_cast<size_t>(one.max_ngram_size()))
      return engram::invalid_argument("lookback: got {} ids, wanted at most {}", num_lookback,
                                      one.max_ngram_size() - 1);
    engram::NgramContext context = hasher->hasher.new_context();
    const auto* canonical = reinterpret_cast<const engram::CanonicalId*>(before.data());
    ENGRAM_RETURN_IF_ERROR(context.append_canonical({canonical, before.size()}).with_context("lookback"));
    ENGRAM_RETURN_IF_ERROR(context.append(tokens, begins));
    one.hash(context, static_cast<int64_t>(num_tokens), out);
    return {};
  });
}

engram_status engram_canonical_ids(const engram_hasher* hasher, const int32_t* token_ids, size_t num_tokens,
                                   int32_t* canonical_ids) {
  return guarded([&]() -> Status {
    ENGRAM_RETURN_IF_ERROR(check_pointer(hasher, "hasher"));
    ENGRAM_ASSIGN_OR_RETURN(const auto tokens, array(token_ids, num_tokens, "token_ids"));
    ENGRAM_ASSIGN_OR_RETURN(const auto out, array(canonical_ids, num_tokens, "canonical_ids"));
    const auto map = hasher->hasher.map().ids();
    for (size_t i = 0; i < num_tokens; ++i) {
      if (tokens[i] < -1 || tokens[i] >= static_cast<int64_t>(map.size()))
        return engram::invalid_argument("token id {} at {}, wanted -1 .. {}", tokens[i], i, map.size() - 1);
    }
    for (size_t i = 0; i < num_tokens; ++i) out[i] = tokens[i] < 0 ? -1 : map[static_cast<size_t>(tokens[i])];
    return {};
  });
}

engram_status engram_table_open(const char* uri, engram_table** table) {
  return guarded([&] { return engram::open_table(uri, table); });
}
void engram_table_close(engram_table* table) { delete table; }
int32_t engram_table_num_layers(const engram_table* table) {
  return number_of(table, "table", [](const engram_table& one) { return static_cast<int32_t>(one.layers.size()); });
}

engram_status engram_table_layer(const engram_table* table, size_t layer, engram_layer_info* info) {
  return guarded([&]() -> Status {
    ENGRAM_RETURN_IF_ERROR(check_pointer(table, "table"));
    ENGRAM_RETURN_IF_ERROR(check_layer(layer, table->layers.size()));
    const engram::RowTable& one = table->layers[layer];
    engram_layer_info result{};
    result.layer_id = one.layer_id;
    result.is_hashed = table->table.info.hash ? 1 : 0;
    result.num_rows = one.num_rows;
    result.row_dim = one.format.width;
    result.row_bytes = one.row_bytes;
    result.dtype = engram::row_type_name(one.format.type);
    return engram::copy_out(result, "engram_layer_info", info);
  });
}

engram_status engram_table_hasher(const engram_table* table, const char* tokenizer, engram_hasher** hasher) {
  return guarded([&] { return engram::create_table_hasher(table, tokenizer, hasher); });
}

engram_status engram_read(const engram_table* table, size_t layer, const int64_t* row_ids, size_t num_rows, void* rows,
                          size_t rows_bytes, engram_pending** pending) {
  return guarded([&] { return engram::start_read(table, layer, row_ids, num_rows, rows, rows_bytes, pending); });
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
