#include <cstring>
#include <memory>
#include <set>

#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/formats/ggml_rows.h"
#include "engram/formats/shard_set.h"
#include "engram/model/convert/hf_config.h"
#include "engram/model/convert/model_tensors.h"
#include "engram/model/convert/source_model.h"

namespace engram {
namespace {

constexpr const char* kHead = "lm_head.weight";
constexpr const char* kEmbedding = "model.embed_tokens.weight";

// Tensors that are there and that the model does without: buffers that follow from the configuration, and the blocks
// behind the last one, which predict further tokens.
bool is_left_out(const std::string& name, const ModelConfig& config) {
  if (name.ends_with(".rotary_emb.inv_freq")) return true;
  constexpr std::string_view kBlocks = "model.layers.";
  return name.starts_with(kBlocks) && std::atoll(name.c_str() + kBlocks.size()) >= config.num_hidden_layers;
}

Result<SourceTensor> open_tensor(const std::string& directory, ShardSet& shards, TensorSpec spec) {
  ENGRAM_ASSIGN_OR_RETURN(const TensorView view, shards.find(spec.name));
  ENGRAM_RETURN_IF_ERROR(check_tensor(view, join_path(directory, shards.file_of().at(spec.name)), spec.name,
                                      {DType::kF32, DType::kBF16, DType::kF16}, spec.shape));
  const bool exact = spec.name.ends_with(".e_score_correction_bias");  // always F32 in our files
  spec.dtype = exact ? DType::kF32 : view.dtype;
  SourceTensor tensor;
  tensor.spec = spec;
  const size_t row = spec.shape[0] == 0 ? 0 : view.bytes.size() / static_cast<size_t>(spec.shape[0]);
  tensor.read = [view, row, widen = spec.dtype != view.dtype](int64_t begin, int64_t end, std::byte* out) {
    const std::byte* from = view.bytes.data() + static_cast<size_t>(begin) * row;
    const size_t bytes = static_cast<size_t>(end - begin) * row;
    if (!widen) {
      std::memcpy(out, from, bytes);
      return;
    }
    const GgmlType& type = *find_ggml_type(view.dtype == DType::kF16 ? kGgmlF16 : kGgmlBF16);
    decode_ggml_row(type, from, static_cast<int64_t>(bytes / 2), reinterpret_cast<float*>(out));
  };
  return tensor;
}

// A head beside a tied embedding is the embedding once more, or the file contradicts itself.
Status check_tied_head(const std::string& directory, ShardSet& shards) {
  ENGRAM_ASSIGN_OR_RETURN(const TensorView head, shards.find(kHead));
  ENGRAM_ASSIGN_OR_RETURN(const TensorView embedding, shards.find(kEmbedding));
  if (head.dtype == embedding.dtype && head.bytes.size() == embedding.bytes.size() &&
      std::memcmp(head.bytes.data(), embedding.bytes.data(), head.bytes.size()) == 0)
    return {};
  return invalid_argument("{}: tie_word_embeddings is true, and {} is not {}", directory, kHead, kEmbedding);
}

Result<std::vector<SourceTensor>> open_tensors(const std::string& directory, ShardSet& shards,
                                               const ModelConfig& config) {
  std::vector<SourceTensor> tensors;
  std::set<std::string> wanted;
  ENGRAM_RETURN_IF_ERROR(visit_model_tensors(config, [&](TensorSpec spec) -> Status {
    wanted.insert(spec.name);
    ENGRAM_ASSIGN_OR_RETURN(SourceTensor tensor, open_tensor(directory, shards, std::move(spec)));
    tensors.push_back(std::move(tensor));
    return {};
  }));
  for (const auto& [name, file] : shards.file_of()) {
    if (wanted.contains(name) || is_left_out(name, config)) continue;
    if (config.tie_word_embeddings && name == kHead) {
      ENGRAM_RETURN_IF_ERROR(check_tied_head(directory, shards));
      continue;
    }
    return invalid_argument("{}: got the tensor {}, which config.json does not ask for", join_path(directory, file),
                            quote_text(name, kTensorNameBytes));
  }
  return tensors;
}

// tokenizer_config.json; null: it is not there.
Result<nlohmann::json> read_tokenizer_config(Env& env, const std::string& directory) {
  const std::string path = join_path(directory, "tokenizer_config.json");
  return env.file_exists(path) ? read_json_file(env, path) : nlohmann::json();
}

// chat_template.jinja, or tokenizer_config.json's: one text, or several by name of which "default" is meant.
Result<std::string> read_chat_template(Env& env, const std::string& directory, const nlohmann::json& tokenizer_config) {
  if (const std::string path = join_path(directory, "chat_template.jinja"); env.file_exists(path))
    return env.read_file(path, {.max_bytes = 1 << 20});
  const nlohmann::json* found = json_find(tokenizer_config, "chat_template");
  if (found == nullptr) return std::string();
  for (size_t i = 0; found->is_array() && i < found->size(); ++i) {
    const nlohmann::json *name = json_find((*found)[i], "name"), *text = json_find((*found)[i], "template");
    if (name != nullptr && *name == "default" && text != nullptr) found = text;
  }
  return found->is_string() ? found->get<std::string>() : std::string();
}

// A token that tokenizer_config.json names, by its text or as an object with it; -1: none.
int32_t named_token(const nlohmann::json& tokenizer_config, const char* key, const Tokenizer& tokenizer) {
  const nlohmann::json* name = json_find(tokenizer_config, key);
  if (name != nullptr && name->is_object()) name = json_find(*name, "content");
  return name != nullptr && name->is_string() ? tokenizer.token_id(name->get_ref<const std::string&>()) : -1;
}

// Ids of config.json, and those that generation_config.json replaces. The first are what a chat template calls
// bos_token and eos_token: those that tokenizer_config.json names.
Result<SpecialTokens> read_special_tokens(Env& env, const std::string& directory, HfConfig config,
                                          const nlohmann::json& tokenizer_config, const Tokenizer& tokenizer) {
  const std::string path = join_path(directory, "generation_config.json");
  if (env.file_exists(path)) {
    ENGRAM_ASSIGN_OR_RETURN(const nlohmann::json json, read_json_file(env, path));
    Fields fields(json, path);
    fields("bos_token_id", config.bos, 0, config.config.vocab_size - 1);
    fields("eos_token_id", config.eos, 0, config.config.vocab_size - 1);
    ENGRAM_RETURN_IF_ERROR(fields.status());
  }
  if (const int32_t bos = named_token(tokenizer_config, "bos_token", tokenizer); bos >= 0) config.bos = {bos};
  if (const int32_t eos = named_token(tokenizer_config, "eos_token", tokenizer); eos >= 0) {
    std::erase(config.eos, eos);
    config.eos.insert(config.eos.begin(), eos);
  }
  SpecialTokens special;
  if (!config.bos.empty()) special.bos = config.bos.front();
  if (!config.eos.empty()) {
    special.eos = config.eos.front();
    special.more_eos.assign(config.eos.begin() + 1, config.eos.end());
  }
  return special;
}

}  // namespace

Status set_tokenizer(Tokenizer tokenizer, SourceModel& model) {
  ENGRAM_RETURN_IF_ERROR(check_vocabulary(model.file.config, tokenizer));
  model.file.vocabulary_digest = tokenizer.vocabulary_digest();
  model.tokenizer = std::move(tokenizer);
  return {};
}

Result<SourceModel> open_hf_folder(Env& env, const std::string& directory) {
  const std::string config_path = join_path(directory, kConfigFile), tokenizer = join_path(directory, kTokenizerFile);
  ENGRAM_ASSIGN_OR_RETURN(const nlohmann::json json, read_json_file(env, config_path));
  ENGRAM_ASSIGN_OR_RETURN(HfConfig config, read_hf_config(json, config_path));
  if (!env.file_exists(tokenizer))
    return not_found("{}: no such file; wanted the tokenizer of the `tokenizers` package beside the model", tokenizer);
  SourceModel out;
  out.file.config = config.config;
  ENGRAM_ASSIGN_OR_RETURN(Tokenizer text, Tokenizer::load(env, tokenizer));
  ENGRAM_RETURN_IF_ERROR(set_tokenizer(std::move(text), out).with_context(tokenizer));
  ENGRAM_ASSIGN_OR_RETURN(const nlohmann::json named, read_tokenizer_config(env, directory));
  ENGRAM_ASSIGN_OR_RETURN(out.file.special,
                          read_special_tokens(env, directory, std::move(config), named, *out.tokenizer));
  ENGRAM_ASSIGN_OR_RETURN(out.file.chat_template, read_chat_template(env, directory, named));
  ENGRAM_ASSIGN_OR_RETURN(ShardSet opened, ShardSet::open(env, directory));
  const auto shards = std::make_shared<ShardSet>(std::move(opened));
  ENGRAM_RETURN_IF_ERROR(shards->check_index());
  ENGRAM_ASSIGN_OR_RETURN(out.tensors, open_tensors(directory, *shards, out.file.config));
  out.check_unchanged = [shards] { return shards->check_unchanged(); };
  return out;
}

Result<SourceModel> open_source_model(Env& env, const std::string& path) {
  if (env.file_exists(join_path(path, "."))) return open_hf_folder(env, path);
  if (!env.file_exists(path)) return not_found("{}: no such file or folder", path);
  return open_gguf_model(env, path);
}

}  // namespace engram
