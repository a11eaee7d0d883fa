// A Hugging Face config.json of a family that our configuration space holds, and back. Torch-free.
//
// llama (and SmolLM2), qwen2, qwen3, mistral without a sliding window, deepseek_v3. What a key changes in the
// arithmetic is taken over, or refused by name; a key that is not known here is refused too, as it may change it.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engram/core/status.h"
#include "engram/model/model_config.h"

namespace engram {

struct HfConfig {
  ModelConfig config;             // valid
  std::vector<int32_t> bos, eos;  // at most one; any number
};
// kInvalidArgument names file, key, got and wanted.
Result<HfConfig> read_hf_config(const nlohmann::json& json, const std::string& name);

// True where one of the families computes what the configuration says.
bool has_hf_family(const ModelConfig& config);
// The other way, without token ids and dtype. REQUIRES: has_hf_family().
nlohmann::ordered_json make_hf_config(const ModelConfig& config);

}  // namespace engram
