#include "engram/model/io/config_file.h"

#include <initializer_list>

#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/text/chat_template.h"

namespace engram {

SpecialTokens find_special_tokens(const Tokenizer& tokenizer) {
  const auto first_of = [&tokenizer](std::initializer_list<const char*> names) {
    for (const char* name : names) {
      const int32_t id = tokenizer.token_id(name);
      if (id >= 0 && tokenizer.is_special(id)) return id;
    }
    return int32_t{-1};
  };
  SpecialTokens out;
  // An end-of-text token stands between texts, so it also begins one.
  out.bos = first_of(
      {"<\uFF5Cbegin\u2581of\u2581sentence\uFF5C>", "<|begin_of_text|>", "<s>", "<bos>", "[BOS]", "<|endoftext|>"});
  out.eos = first_of(
      {"<|endoftext|>", "<|end_of_text|>", "<\uFF5Cend\u2581of\u2581sentence\uFF5C>", "</s>", "<eos>", "[EOS]"});
  return out;
}

CheckpointConfig make_checkpoint_config(const ModelConfig& config, const Tokenizer& tokenizer) {
  return {config, find_special_tokens(tokenizer), tokenizer.vocabulary_digest(), std::string(kPlainChatTemplate)};
}

Result<std::string> resolve_checkpoint(Env& env, const std::string& path) {
  if (env.file_exists(join_path(path, kConfigFile))) return path;
  const std::string latest = join_path(path, "latest");
  if (env.file_exists(join_path(latest, kConfigFile))) {
    Result<std::string> target = env.read_symlink(latest);
    if (!target.ok()) return latest;
    return target->starts_with('/') ? *target : join_path(path, *target);
  }
  if (!env.file_exists(path)) return not_found("{}: no such folder; wanted a checkpoint or a training output", path);
  return not_found("{}: neither {} nor latest/{} is there; wanted a checkpoint directory or a training output", path,
                   kConfigFile, kConfigFile);
}

Result<CheckpointConfig> read_checkpoint_config(Env& env, const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(nlohmann::json json, read_json_file(env, path));
  CheckpointConfig out;
  std::string type;
  Fields fields(json, path);
  fields.need("model_type", type);
  fields.need("vocabulary_digest", out.vocabulary_digest);
  fields("chat_template", out.chat_template);
  fields.skip({"architectures", "torch_dtype", "bos_token_id", "eos_token_id"});
  ENGRAM_RETURN_IF_ERROR(fields.status());
  if (type != "engram") return invalid_argument("{}: model_type: got {}, wanted \"engram\"", path, quote_text(type));
  ENGRAM_RETURN_IF_ERROR(out.config.read(fields));
  ENGRAM_RETURN_IF_ERROR(out.config.validate().with_context(path));
  std::vector<int32_t>& ends = out.special.more_eos;
  fields("bos_token_id", out.special.bos, 0, out.config.vocab_size - 1);
  fields("eos_token_id", ends, 0, out.config.vocab_size - 1);
  ENGRAM_RETURN_IF_ERROR(fields.status());
  if (!ends.empty()) {
    out.special.eos = ends.front();
    ends.erase(ends.begin());
  }
  return out;
}

std::string checkpoint_config_text(const CheckpointConfig& file, const char* torch_dtype) {
  nlohmann::ordered_json json;
  json["model_type"] = "engram";
  json["architectures"] = {"EngramForCausalLM"};
  json["torch_dtype"] = torch_dtype;
  if (file.special.bos >= 0) json["bos_token_id"] = file.special.bos;
  if (file.special.eos >= 0) json["eos_token_id"] = file.special.eos;
  if (!file.special.more_eos.empty()) {
    json["eos_token_id"] = {file.special.eos};
    for (const int32_t token : file.special.more_eos) json["eos_token_id"].push_back(token);
  }
  json["vocabulary_digest"] = file.vocabulary_digest;
  json["chat_template"] = file.chat_template;
  json.update(file.config.to_json());
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

Result<TokenMap> model_token_map(const ModelConfig& config, const Tokenizer& tokenizer) {
  if (config.engram.rule == HashRule::kEngram && config.engram_compression) return TokenMap::from_tokenizer(tokenizer);
  return TokenMap::identity(tokenizer.vocab_size());
}

Status check_vocabulary(const ModelConfig& config, const Tokenizer& tokenizer) {
  const int tokens = tokenizer.vocab_size();
  if (tokens == config.vocab_size || (config.memory == MemoryKind::kNone && tokens < config.vocab_size)) return {};
  return invalid_argument("vocab_size: got {} in the configuration, wanted the tokenizer's {}", config.vocab_size,
                          tokens);
}

}  // namespace engram
