// Qwen4Exp's per-layer embedding (PLE): raw token ids, multipliers from SplitMix64, rows padded to a round number and
// split over shards. Row ids follow another rule, so the source has rows but no RowFileHash; the constants
// that the checkpoint carries are checked all the same.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/core/mix.h"
#include "engram/hash/layout.h"
#include "engram/kernels/row_codec.h"
#include "engram/store/import/import.h"

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
  fields.need("vocab_size", ple.vocab_size, 1, INT32_MAX);
  fields.need("seed", ple.seed, 0, INT32_MAX);
  ENGRAM_RETURN_IF_ERROR(fields.status());
  if (ple.layer_ids.empty() || *std::min_element(ple.layer_ids.begin(), ple.layer_ids.end()) < 1)
    return invalid_argument("{}: ple_layer_ids is {}, wanted ids from 1", where, shape_text(ple.layer_ids));
  if (ple.embed_dim % ple.heads() != 0)
    return invalid_argument("{}: ple_embed_dim is {}, wanted a multiple of the {} heads", where, ple.embed_dim,
                            ple.heads());
  return ple;
}

class PleSource final : public TableSource {
 public:
  PleSource(std::string path, ShardSet shards)
      : TableSource("Qwen4Exp PLE safetensors", std::move(path)), shards_(std::move(shards)) {
    hash_note_ = "Qwen4Exp hashes raw ids by another rule; rows can be read by id only";
  }

  // primes, offsets [heads] of this layer.
  Status add_layer(const PleConfig& ple, int64_t ordinal, std::span<const int64_t> primes,
                   std::span<const int64_t> offsets) {
    const auto layer_id = static_cast<int>(ple.layer_ids[static_cast<size_t>(ordinal)] - 1);
    ENGRAM_ASSIGN_OR_RETURN(const std::string prefix, find_prefix(layer_id));
    ENGRAM_RETURN_IF_ERROR(check_constants(prefix + "ngram_heads_vocab_sizes", primes));
    ENGRAM_RETURN_IF_ERROR(check_constants(prefix + "ngram_heads_offsets", offsets));
    ENGRAM_RETURN_IF_ERROR(check_constants(prefix + "layer_multipliers",
                                           ple_multipliers(ple.seed, ordinal, ple.vocab_size, ple.ngram_size)));
    const int64_t sum = offsets.back() + primes.back();
    const int64_t padded = (sum + ple.divisible_by - 1) / ple.divisible_by * ple.divisible_by;
    if (padded % ple.parts != 0)
      return invalid_argument("{}: layer {}: {} rows do not split into {} shards", path_, layer_id, padded, ple.parts);
    Layer layer{padded / ple.parts, {}};
    RowFormat format{RowType::kBF16, ple.embed_dim / ple.heads()};
    for (int64_t part = 0; part < ple.parts; ++part) {
      ENGRAM_ASSIGN_OR_RETURN(TensorView view, find_shard(prefix, part, ple.parts));
      ENGRAM_RETURN_IF_ERROR(check_tensor(view, path_, fmt::format("{}ngram_embedding shard {}", prefix, part),
                                          {DType::kBF16, DType::kF8E4M3}, {layer.rows_per_shard, format.width}));
      if (part > 0 && view.dtype != layer.shards[0].dtype)
        return invalid_argument("{}: layer {}: shard {} is {}, shard 0 is {}", path_, layer_id, part,
                                dtype_name(view.dtype), dtype_name(layer.shards[0].dtype));
      layer.shards.push_back(view);
    }
    std::string encoding = dtype_name(layer.shards[0].dtype);
    if (layer.shards[0].dtype == DType::kF8E4M3) {
      format.type = RowType::kFP8;
      ENGRAM_ASSIGN_OR_RETURN(format.table_scale, read_scale(prefix + "ngram_embedding.weight_scale"));
      encoding += " with one scale";
    }
    ENGRAM_RETURN_IF_ERROR(format.check().with_context(path_));
    tables_.push_back({layer_id, padded, format, encoding});
    layers_.push_back(std::move(layer));
    return {};
  }

 protected:
  Status do_read_rows(int table, int64_t first, int64_t count, std::byte* out) const override {
    const Layer& layer = layers_[static_cast<size_t>(table)];
    const int64_t row_bytes = tables_[static_cast<size_t>(table)].format.row_bytes();
    while (count > 0) {
      const int64_t shard = first / layer.rows_per_shard, row = first % layer.rows_per_shard;
      const int64_t here = std::min(count, layer.rows_per_shard - row);
      std::memcpy(out, layer.shards[static_cast<size_t>(shard)].bytes.data() + row * row_bytes,
                  static_cast<size_t>(here * row_bytes));
      out += here * row_bytes;
      first += here;
      count -= here;
    }
    return {};
  }
  Status check_unchanged() const override { return shards_.check_unchanged(); }

 private:
  struct Layer {
    int64_t rows_per_shard;
    std::vector<TensorView> shards;
  };

  // What stands before "ngram_embedding" in the names of this layer's tensors.
  Result<std::string> find_prefix(int layer_id) {
    const std::string block = fmt::format("layers.{}.", layer_id), table = "ple_embedding.";
    std::optional<std::string> prefix;
    for (const auto& [name, file] : shards_.file_of()) {
      const size_t end = name.find(table + "ngram_embedding");
      const size_t at = name.find(block);
      if (end == std::string::npos || at == std::string::npos || at > end || (at > 0 && name[at - 1] != '.')) continue;
      std::string found = name.substr(0, end + table.size());
      if (prefix && *prefix != found)
        return invalid_argument("{}: layer {} has tables {} and {}", path_, layer_id,
                                quote_text(*prefix, kTensorNameBytes), quote_text(found, kTensorNameBytes));
      prefix = std::move(found);
    }
    if (!prefix) return not_found("{}: no tensor {}...ple_embedding.ngram_embedding", path_, block);
    return *prefix;
  }

  Result<TensorView> find_shard(const std::string& prefix, int64_t part, int64_t parts) {
    const std::string name = fmt::format("{}ngram_embedding.shard_{}", prefix, part);
    if (shards_.has(name + ".weight")) return shards_.find(name + ".weight");
    if (parts == 1 && !shards_.has(name)) return shards_.find(prefix + "ngram_embedding.weight");
    return shards_.find(name);
  }

  Status check_constants(const std::string& name, std::span<const int64_t> wanted) {
    ENGRAM_ASSIGN_OR_RETURN(const TensorView view, shards_.find(name));
    if (view.dtype != DType::kI64 || view.bytes.size() != wanted.size_bytes())
      return invalid_argument("{}: tensor {} is {} {}, wanted {} of I64", path_, quote_text(name, kTensorNameBytes),
                              dtype_name(view.dtype), shape_text(view.shape), wanted.size());
    for (size_t i = 0; i < wanted.size(); ++i) {
      int64_t got;
      std::memcpy(&got, view.bytes.data() + i * sizeof got, sizeof got);
      if (got != wanted[i])
        return invalid_argument("{}: tensor {} holds {} at {}, wanted {} as config.json gives it", path_,
                                quote_text(name, kTensorNameBytes), got, i, wanted[i]);
    }
    return {};
  }

  Result<float> read_scale(const std::string& name) {
    ENGRAM_ASSIGN_OR_RETURN(const TensorView view, shards_.find(name));
    const bool is_half = view.dtype == DType::kBF16;
    if ((view.dtype != DType::kF32 && !is_half) || view.bytes.size() != dtype_size(view.dtype))
      return invalid_argument("{}: tensor {} is {} {}, wanted one F32 or BF16", path_,
                              quote_text(name, kTensorNameBytes), dtype_name(view.dtype), shape_text(view.shape));
    float scale;
    decode_rows({is_half ? RowType::kBF16 : RowType::kFP32, 1}, view.bytes.data(), view.bytes.size(), 1, &scale);
    return scale;
  }

  ShardSet shards_;
  std::vector<Layer> layers_;
};

}  // namespace

std::vector<int64_t> ple_multipliers(int64_t seed, int64_t ordinal, int64_t vocab_size, int ngram_size) {
  const auto base = static_cast<uint64_t>(seed + 10007 * ordinal);
  const auto half = static_cast<uint64_t>(std::max<int64_t>(1, INT64_MAX / vocab_size / 2));
  std::vector<int64_t> multipliers;
  for (int i = 0; i < ngram_size; ++i) {
    const uint64_t v = splitmix64(base + 0x9E3779B97F4A7C15u * static_cast<uint64_t>(i + 1));
    multipliers.push_back(static_cast<int64_t>(2 * (v % half) + 1));
  }
  return multipliers;
}

Result<std::unique_ptr<TableSource>> open_ple(Env& env, const std::string& directory, const nlohmann::json& config,
                                              const std::string& config_path) {
  ENGRAM_ASSIGN_OR_RETURN(const PleConfig ple, parse_config(config, config_path));
  // The primes of all heads of all layers ascend from one start, as EngramLayout gives them.
  EngramConfig primes;
  for (size_t i = 0; i < ple.layer_ids.size(); ++i) primes.layer_ids.push_back(static_cast<int>(i));
  primes.max_ngram_size = ple.ngram_size;
  primes.n_heads = ple.heads_per_ngram;
  primes.head_dim = static_cast<int>(ple.embed_dim / ple.heads());
  primes.vocab_size.assign(static_cast<size_t>(ple.ngram_size - 1), ple.vocab_base);
  primes.pad_token_id = 0;
  primes.compressed_vocab_size = static_cast<int>(ple.vocab_size);
  ENGRAM_ASSIGN_OR_RETURN(const EngramLayout layout, EngramLayout::create(primes, 0));
  ENGRAM_ASSIGN_OR_RETURN(ShardSet shards, ShardSet::open(env, directory));
  auto source = std::make_unique<PleSource>(directory, std::move(shards));
  for (int i = 0; i < layout.num_layers(); ++i)
    ENGRAM_RETURN_IF_ERROR(source->add_layer(ple, i, layout.primes(i), layout.offsets(i)));
  return std::unique_ptr<TableSource>(std::move(source));
}

}  // namespace engram::import
