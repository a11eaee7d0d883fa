// LongCat's n-gram tables: (N - 1) K tensors, one for each order and split, which are one table here. Flash-Lite
// and 2.0 name keys and tensors differently.
#include <algorithm>

#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/store/import/import.h"
#include "engram/store/import/tensor_source.h"

namespace engram::import {
namespace {

// The first of these keys that is there, or the first for a message.
std::string spelling_of(const nlohmann::json& config, std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    if (json_find(config, key) != nullptr) return key;
  }
  return *keys.begin();
}

// The table of one order and split, under whatever prefix.
Result<TensorView> find_head(ShardSet& shards, const std::string& path, int head) {
  const std::string endings[] = {fmt::format("ngram_embeddings.embedders.{}.weight", head),
                                 fmt::format("oe_embed_tokens{}.weight", head)};
  std::string found;
  for (const auto& [name, file] : shards.file_of()) {
    for (const std::string& ending : endings) {
      if (!name.ends_with(ending) || (name.size() > ending.size() && name[name.size() - ending.size() - 1] != '.'))
        continue;
      if (!found.empty())
        return invalid_argument("{}: tables {} and {}, wanted one", path, quote_text(found, kTensorNameBytes),
                                quote_text(name, kTensorNameBytes));
      found = name;
    }
  }
  if (found.empty()) return not_found("{}: no tensor {}, nor {}", path, endings[0], endings[1]);
  return shards.find(found);
}

}  // namespace

bool is_longcat(const nlohmann::json& config) {
  return json_find(config, "emb_neighbor_num") != nullptr || json_find(config, "oe_neighbor_num") != nullptr;
}

Result<std::unique_ptr<TableSource>> open_longcat(Env& env, const std::string& directory, const nlohmann::json& config,
                                                  const std::string& config_path) {
  EngramConfig hashed;
  hashed.rule = HashRule::kLongcat;
  hashed.layer_ids = {0};
  Fields fields(config, config_path);
  fields.need(spelling_of(config, {"emb_neighbor_num", "oe_neighbor_num"}), hashed.max_ngram_size);
  fields.need(spelling_of(config, {"emb_split_num", "oe_split_num"}), hashed.n_heads);
  fields.need(spelling_of(config, {"ngram_vocab_size_ratio", "oe_vocab_size_ratio"}), hashed.vocab_size_ratio);
  fields.need("vocab_size", hashed.compressed_vocab_size, 1, kMaxRawVocabulary);
  ENGRAM_RETURN_IF_ERROR(fields.status());
  ENGRAM_ASSIGN_OR_RETURN(hashed.pad_token_id, read_eos(config, config_path));
  hashed.head_dim = 1;  // stands in until the tensors say how wide they are
  Result<EngramLayout> layout = EngramLayout::create(hashed, hashed.pad_token_id);
  if (!layout.ok()) return layout.status().with_context(config_path);

  ENGRAM_ASSIGN_OR_RETURN(ShardSet shards, ShardSet::open(env, directory));
  auto source = std::make_unique<TensorSource>("LongCat safetensors", directory, std::move(shards));
  std::vector<TensorView> heads;
  for (int head = 0; head < layout->rows_per_token(); ++head) {
    ENGRAM_ASSIGN_OR_RETURN(const TensorView view, find_head(source->shards(), directory, head));
    if (head == 0 && view.shape.size() == 2)
      hashed.head_dim = static_cast<int>(std::clamp<int64_t>(view.shape[1], 1, kMaxRowWidth));
    ENGRAM_RETURN_IF_ERROR(check_tensor(view, directory, fmt::format("n-gram table {}", head),
                                        {DType::kBF16, DType::kF32},
                                        {layout->primes(0)[static_cast<size_t>(head)], hashed.head_dim}));
    if (view.dtype != (heads.empty() ? view : heads[0]).dtype)
      return invalid_argument("{}: n-gram table {} is {}, table 0 is {}", directory, head, dtype_name(view.dtype),
                              dtype_name(heads[0].dtype));
    heads.push_back(view);
  }
  const RowFormat format{heads[0].dtype == DType::kBF16 ? RowType::kBF16 : RowType::kFP32, hashed.head_dim};
  const SourceTable table{0, layout->num_rows(0), format, dtype_name(heads[0].dtype)};
  source->add_table(table, std::move(heads));
  source->set_hash(make_raw_hash(hashed));
  return std::unique_ptr<TableSource>(std::move(source));
}

}  // namespace engram::import
