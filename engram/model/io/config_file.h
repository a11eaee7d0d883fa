// config.json of a checkpoint: the model's configuration, and what belongs to its vocabulary
// (docs/formats/checkpoint.md). Torch-free.
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"
#include "engram/hash/token_map.h"
#include "engram/model/model_config.h"
#include "engram/text/tokenizer.h"

namespace engram {

// The files of a checkpoint.
inline constexpr const char* kConfigFile = "config.json";
inline constexpr const char* kTokenizerFile = "tokenizer.json";
inline constexpr const char* kModelFile = "model.safetensors";
inline constexpr const char* kEngramFile = "engram.safetensors";

// path: a checkpoint directory, or a training OUTPUT (its `latest`). kNotFound.
Result<std::string> resolve_checkpoint(Env& env, const std::string& path);

// Ids of the tokens that begin and end a text; -1: the vocabulary has none.
struct SpecialTokens {
  int32_t bos = -1, eos = -1;
  std::vector<int32_t> more_eos;  // others that end a text too, as the end of a turn
  bool ends_text(int32_t token) const {
    return token >= 0 && (token == eos || std::find(more_eos.begin(), more_eos.end(), token) != more_eos.end());
  }
};
// By their usual names.
SpecialTokens find_special_tokens(const Tokenizer& tokenizer);

struct CheckpointConfig {
  ModelConfig config;
  SpecialTokens special;
  std::string vocabulary_digest, chat_template;
};
// Of a model that is made here: special tokens by their usual names, the plain chat template.
CheckpointConfig make_checkpoint_config(const ModelConfig& config, const Tokenizer& tokenizer);

// kNotFound, kDataLoss, kInvalidArgument: the file, the key, got and wanted. The configuration is valid.
Result<CheckpointConfig> read_checkpoint_config(Env& env, const std::string& path);
// The file's text. torch_dtype: "float32" or "bfloat16", for other programs.
std::string checkpoint_config_text(const CheckpointConfig& file, const char* torch_dtype);

// What the memory hashes: canonical ids, or raw ones without compression and under the rules of raw ids.
Result<TokenMap> model_token_map(const ModelConfig& config, const Tokenizer& tokenizer);

// A tokenizer may have fewer tokens than a model without memory has rows of its embedding: some are made for a round
// number.
Status check_vocabulary(const ModelConfig& config, const Tokenizer& tokenizer);

}  // namespace engram
