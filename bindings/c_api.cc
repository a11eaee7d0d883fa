// The C ABI (include/engram/engram.h): errors, hashers and tables. Reads and rows are c_api_rows.cc.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings/c_api.h"
#include "engram/text/tokenizer.h"

namespace engram {
namespace {

static_assert(static_cast<int>(StatusCode::kDataLoss) == ENGRAM_DATA_LOSS);
static_assert(static_cast<int>(StatusCode::kOutOfRange) == ENGRAM_OUT_OF_RANGE);

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
int32_t engram_hasher_max_ngram_size(const engram_hasher* hasher) {
  return number_of(hasher, "hasher", [](const engram_hasher& one) { return one.hasher.layer(0).max_ngram_size(); });
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

}  // extern "C"
