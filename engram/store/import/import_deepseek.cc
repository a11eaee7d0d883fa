// DeepSeek-V4.1: codes and scales are two tensors, a scale for 32 columns of the SAME row (not the 32 x 32 tiles that
// every other fp8 tensor of the checkpoint has).
#include <cstring>

#include "engram/core/fields.h"
#include "engram/store/import/import.h"
#include "engram/text/tokenizer.h"

namespace engram::import {
namespace {

constexpr int64_t kBlock = 32;

class DeepSeekSource final : public TableSource {
 public:
  DeepSeekSource(std::string path, ShardSet shards)
      : TableSource("DeepSeek-V4.1 safetensors", std::move(path)), shards_(std::move(shards)) {}

  Status add_layer(int layer_id, int64_t num_rows, int64_t width) {
    Layer layer;
    std::string scale_dtype;
    ENGRAM_ASSIGN_OR_RETURN(const std::string weight, tensor_name(layer_id, {"embed.weight", "embed_tokens.weight"}));
    ENGRAM_ASSIGN_OR_RETURN(layer.codes, shards_.find(weight));
    ENGRAM_RETURN_IF_ERROR(check_tensor(layer.codes, path_, weight, {DType::kF8E4M3}, {num_rows, width}));
    ENGRAM_ASSIGN_OR_RETURN(const std::string scale,
                            tensor_name(layer_id, {"embed.scale", "embed_tokens.weight_scale_inv"}));
    ENGRAM_ASSIGN_OR_RETURN(layer.scales, shards_.find(scale));
    ENGRAM_RETURN_IF_ERROR(
        check_tensor(layer.scales, path_, scale, {DType::kF8E8M0, DType::kU8}, {num_rows, width / kBlock}));
    layers_.push_back(layer);
    tables_.push_back({layer_id, num_rows, RowFormat{RowType::kFP8, width, kBlock},
                       fmt::format("F8_E4M3 + {}", dtype_name(layer.scales.dtype))});
    return {};
  }
  void set_hash(RowFileHash hash) { hash_ = std::move(hash); }
  void set_hash_note(std::string note) { hash_note_ = std::move(note); }

 protected:
  Status do_read_rows(int table, int64_t first, int64_t count, std::byte* out) const override {
    const Layer& layer = layers_[static_cast<size_t>(table)];
    const auto width = static_cast<size_t>(tables_[static_cast<size_t>(table)].format.width);
    const size_t scales = width / kBlock;
    for (auto row = static_cast<size_t>(first); row < static_cast<size_t>(first + count); ++row) {
      std::memcpy(out, layer.codes.bytes.data() + row * width, width);
      std::memcpy(out + width, layer.scales.bytes.data() + row * scales, scales);
      out += width + scales;
    }
    return {};
  }
  Status check_unchanged() const override { return shards_.check_unchanged(); }

 private:
  struct Layer {
    TensorView codes, scales;
  };

  // vLLM renames the tensors; either name is as good.
  Result<std::string> tensor_name(int layer_id, std::initializer_list<const char*> endings) {
    std::string first;
    for (const char* ending : endings) {
      std::string name = fmt::format("layers.{}.engram.{}", layer_id, ending);
      if (shards_.has(name)) return name;
      if (first.empty()) first = name;
    }
    return not_found("{}: no tensor {}", path_, first);
  }

  ShardSet shards_;
  std::vector<Layer> layers_;
};

struct DeepSeekConfig {
  EngramConfig engram;
  std::vector<int64_t> num_rows;
};

Result<DeepSeekConfig> parse_config(const nlohmann::json& config, const std::string& where) {
  DeepSeekConfig result;
  EngramConfig& engram = result.engram;
  Fields fields(config, where);
  fields.need("engram_layer_ids", engram.layer_ids, 0);
  fields.need("engram_max_ngram_size", engram.max_ngram_size, 2, 64);
  fields.need("engram_n_heads", engram.n_heads, 1, 1024);
  fields.need("engram_head_dim", engram.head_dim, 1, kMaxRowWidth);
  fields.need("engram_compressed_vocab_size", engram.compressed_vocab_size, 1);
  fields.need("engram_vocab_size", engram.vocab_size, 0, INT32_MAX);
  fields.need("engram_num_embeddings", result.num_rows, 0, kMaxRowsPerTable);
  // engram_pad_token_id (HF) or engram_pad_id (inference/config.json).
  fields.need(fields.find("engram_pad_id") ? "engram_pad_id" : "engram_pad_token_id", engram.pad_token_id, 0);
  int other = engram.pad_token_id;
  fields("engram_pad_token_id", other, 0);
  ENGRAM_RETURN_IF_ERROR(fields.status());
  if (other != engram.pad_token_id)
    return invalid_argument("{}: engram_pad_token_id is {} and engram_pad_id is {}", where, other, engram.pad_token_id);
  if (engram.head_dim % kBlock != 0)
    return invalid_argument("{}: engram_head_dim is {}, wanted a multiple of {}", where, engram.head_dim, kBlock);
  if (engram.vocab_size.size() == 1)
    engram.vocab_size.assign(static_cast<size_t>(engram.max_ngram_size - 1), engram.vocab_size[0]);
  if (result.num_rows.size() != engram.layer_ids.size())
    return invalid_argument("{}: engram_num_embeddings has {} entries for {} layers", where, result.num_rows.size(),
                            engram.layer_ids.size());
  return result;
}

}  // namespace

Result<std::unique_ptr<TableSource>> open_deepseek(Env& env, const std::string& directory, const nlohmann::json& config,
                                                   const std::string& config_path, const std::string& tokenizer) {
  ENGRAM_ASSIGN_OR_RETURN(const DeepSeekConfig read, parse_config(config, config_path));
  const auto& [parsed, num_rows] = read;
  ENGRAM_RETURN_IF_ERROR(check_num_rows(parsed, num_rows, config_path));
  ENGRAM_ASSIGN_OR_RETURN(ShardSet shards, ShardSet::open(env, directory));
  auto source = std::make_unique<DeepSeekSource>(directory, std::move(shards));
  for (size_t i = 0; i < num_rows.size(); ++i)
    ENGRAM_RETURN_IF_ERROR(source->add_layer(parsed.layer_ids[i], num_rows[i], parsed.head_dim));

  const std::string tokenizer_path = tokenizer.empty() ? join_path(directory, "tokenizer.json") : tokenizer;
  if (tokenizer.empty() && !env.file_exists(tokenizer_path)) {
    source->set_hash_note("no tokenizer.json in the folder, so token ids cannot be hashed; name one");
  } else {
    ENGRAM_ASSIGN_OR_RETURN(const Tokenizer loaded, Tokenizer::load(env, tokenizer_path));
    ENGRAM_ASSIGN_OR_RETURN(const TokenMap map, TokenMap::from_tokenizer(loaded));
    ENGRAM_ASSIGN_OR_RETURN(RowFileHash hash, make_hash(parsed, map, num_rows, config_path));
    source->set_hash(std::move(hash));
  }
  return std::unique_ptr<TableSource>(std::move(source));
}

}  // namespace engram::import
