// Qwen4Exp's per-layer embedding (PLE): rows padded to a round number and split over shards. The constants that the
// checkpoint carries are compared with those that its configuration gives.
#include <algorithm>
#include <cstring>

#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/kernels/row_codec.h"
#include "engram/store/import/import.h"
#include "engram/store/import/tensor_source.h"

namespace engram::import {
namespace {

struct PleConfig {
  std::vector<int64_t> layer_ids;  // as in config.json, from 1
  int ngram_size = 0, heads_per_ngram = 0;
  int64_t embed_dim = 0, vocab_base = 0, divisible_by = 0, parts = 0, seed = 0, vocab_size = 0;

  int64_t heads() const { return int64_t{ngram_size - 1} * heads_per_ngram; }
};

Result<PleConfig> parse_config(const nlohmann::json& config, const std::string& where) {
  PleConfig ple;
  Fields fields(config, where);
  fields.need("ple_layer_ids", ple.layer_ids, 0, INT32_MAX);
  fields.need("ngram_size", ple.ngram_size, 2, 64);
  fields.need("heads_per_ngram", ple.heads_per_ngram, 1, 1024);
  fields.need("ple_embed_dim", ple.embed_dim, 1, INT32_MAX);
  fields.need("ngram_vocab_size_base", ple.vocab_base, 1, INT32_MAX);
  fields.need("make_ngram_vocab_size_divisible_by", ple.divisible_by, 1, INT32_MAX);
  fields.need("split_ngram_parts", ple.parts, 1, INT32_MAX);
  fields.need("vocab_size", ple.vocab_size, 1, kMaxRawVocabulary);
  fields.need("seed", ple.seed, 0, INT32_MAX);
  ENGRAM_RETURN_IF_ERROR(fields.status());
  if (ple.layer_ids.empty() || *std::min_element(ple.layer_ids.begin(), ple.layer_ids.end()) < 1)
    return invalid_argument("{}: ple_layer_ids is {}, wanted ids from 1", where, shape_text(ple.layer_ids));
  if (ple.embed_dim % ple.heads() != 0)
    return invalid_argument("{}: ple_embed_dim is {}, wanted a multiple of the {} heads", where, ple.embed_dim,
                            ple.heads());
  // The package sorts them, and their order gives seeds and primes.
  std::sort(ple.layer_ids.begin(), ple.layer_ids.end());
  return ple;
}

// What stands before "ngram_embedding" in the names of this layer's tensors.
Result<std::string> find_prefix(const ShardSet& shards, const std::string& path, int layer_id) {
  const std::string block = fmt::format("layers.{}.", layer_id), table = "ple_embedding.";
  std::optional<std::string> prefix;
  for (const auto& [name, file] : shards.file_of()) {
    const size_t end = name.find(table + "ngram_embedding");
    const size_t at = name.find(block);
    if (end == std::string::npos || at == std::string::npos || at > end || (at > 0 && name[at - 1] != '.')) continue;
    std::string found = name.substr(0, end + table.size());
    if (prefix && *prefix != found)
      return invalid_argument("{}: layer {} has tables {} and {}", path, layer_id,
                              quote_text(*prefix, kTensorNameBytes), quote_text(found, kTensorNameBytes));
    prefix = std::move(found);
  }
  if (!prefix) return not_found("{}: no tensor {}...ple_embedding.ngram_embedding", path, block);
  return *prefix;
}

Result<TensorView> find_shard(ShardSet& shards, const std::string& prefix, int64_t part, int64_t parts) {
  const std::string name = fmt::format("{}ngram_embedding.shard_{}", prefix, part);
  if (shards.has(name + ".weight")) return shards.find(name + ".weight");
  if (parts == 1 && !shards.has(name)) return shards.find(prefix + "ngram_embedding.weight");
  return shards.find(name);
}

Status check_constants(ShardSet& shards, const std::string& path, const std::string& name,
                       std::span<const int64_t> wanted) {
  ENGRAM_ASSIGN_OR_RETURN(const TensorView view, shards.find(name));
  if (view.dtype != DType::kI64 || view.bytes.size() != wanted.size_bytes())
    return invalid_argument("{}: tensor {} is {} {}, wanted {} of I64", path, quote_text(name, kTensorNameBytes),
                            dtype_name(view.dtype), shape_text(view.shape), wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) {
    int64_t got;
    std::memcpy(&got, view.bytes.data() + i * sizeof got, sizeof got);
    if (got != wanted[i])
      return invalid_argument("{}: tensor {} holds {} at {}, wanted {} as config.json gives it", path,
                              quote_text(name, kTensorNameBytes), got, i, wanted[i]);
  }
  return {};
}

Result<float> read_scale(ShardSet& shards, const std::string& path, const std::string& name) {
  ENGRAM_ASSIGN_OR_RETURN(const TensorView view, shards.find(name));
  const bool is_half = view.dtype == DType::kBF16;
  if ((view.dtype != DType::kF32 && !is_half) || view.bytes.size() != dtype_size(view.dtype))
    return invalid_argument("{}: tensor {} is {} {}, wanted one F32 or BF16", path, quote_text(name, kTensorNameBytes),
                            dtype_name(view.dtype), shape_text(view.shape));
  float scale;
  decode_rows({is_half ? RowType::kBF16 : RowType::kFP32, 1}, view.bytes.data(), view.bytes.size(), 1, &scale);
  return scale;
}

// The table of one layer of the layout: constants, shards and scale.
Status add_layer(TensorSource& source, const PleConfig& ple, const EngramLayout& layout, int position) {
  const std::string& path = source.path();
  const int layer_id = layout.config().layer_ids[static_cast<size_t>(position)];
  ENGRAM_ASSIGN_OR_RETURN(const std::string prefix, find_prefix(source.shards(), path, layer_id));
  const std::pair<const char*, std::span<const int64_t>> constants[] = {
      {"ngram_heads_vocab_sizes", layout.primes(position)},
      {"ngram_heads_offsets", layout.offsets(position)},
      {"layer_multipliers", layout.multipliers(position)}};
  for (const auto& [name, wanted] : constants)
    ENGRAM_RETURN_IF_ERROR(check_constants(source.shards(), path, prefix + name, wanted));
  const int64_t rows = layout.num_rows(position);
  if (rows % ple.parts != 0)
    return invalid_argument("{}: layer {}: {} rows do not split into {} shards", path, layer_id, rows, ple.parts);
  std::vector<TensorView> shards;
  RowFormat format{RowType::kBF16, layout.config().head_dim};
  for (int64_t part = 0; part < ple.parts; ++part) {
    ENGRAM_ASSIGN_OR_RETURN(TensorView view, find_shard(source.shards(), prefix, part, ple.parts));
    ENGRAM_RETURN_IF_ERROR(check_tensor(view, path, fmt::format("{}ngram_embedding shard {}", prefix, part),
                                        {DType::kBF16, DType::kF8E4M3, DType::kF32}, {rows / ple.parts, format.width}));
    if (part > 0 && view.dtype != shards[0].dtype)
      return invalid_argument("{}: layer {}: shard {} is {}, shard 0 is {}", path, layer_id, part,
                              dtype_name(view.dtype), dtype_name(shards[0].dtype));
    shards.push_back(view);
  }
  std::string encoding = dtype_name(shards[0].dtype);
  if (shards[0].dtype == DType::kF32) format.type = RowType::kFP32;
  if (shards[0].dtype == DType::kF8E4M3) {
    format.type = RowType::kFP8;
    ENGRAM_ASSIGN_OR_RETURN(format.table_scale,
                            read_scale(source.shards(), path, prefix + "ngram_embedding.weight_scale"));
    encoding += " with one scale";
  }
  ENGRAM_RETURN_IF_ERROR(format.check().with_context(path));
  source.add_table({layer_id, rows, format, encoding}, std::move(shards));
  return {};
}

}  // namespace

Result<std::unique_ptr<TableSource>> open_ple(Env& env, const std::string& directory, const nlohmann::json& config,
                                              const std::string& config_path) {
  ENGRAM_ASSIGN_OR_RETURN(const PleConfig ple, parse_config(config, config_path));
  EngramConfig hashed;
  hashed.rule = HashRule::kQwen4Exp;
  for (const int64_t id : ple.layer_ids) hashed.layer_ids.push_back(static_cast<int>(id - 1));
  hashed.max_ngram_size = ple.ngram_size;
  hashed.n_heads = ple.heads_per_ngram;
  hashed.head_dim = static_cast<int>(ple.embed_dim / ple.heads());
  hashed.vocab_size.assign(static_cast<size_t>(ple.ngram_size - 1), ple.vocab_base);
  hashed.seed = ple.seed;
  hashed.compressed_vocab_size = static_cast<int>(ple.vocab_size);
  hashed.rows_divisible_by = ple.divisible_by;
  const Result<int> eos = read_eos(config, config_path);
  hashed.pad_token_id = eos.ok() ? *eos : 0;
  const Result<EngramLayout> layout = EngramLayout::create(hashed, hashed.pad_token_id);
  if (!layout.ok()) return layout.status().with_context(config_path);
  ENGRAM_ASSIGN_OR_RETURN(ShardSet shards, ShardSet::open(env, directory));
  auto source = std::make_unique<TensorSource>("Qwen4Exp PLE safetensors", directory, std::move(shards));
  for (int i = 0; i < layout->num_layers(); ++i) ENGRAM_RETURN_IF_ERROR(add_layer(*source, ple, *layout, i));
  if (eos.ok())
    source->set_hash(make_raw_hash(hashed));
  else
    source->set_hash_note(eos.status().message());
  return std::unique_ptr<TableSource>(std::move(source));
}

}  // namespace engram::import
