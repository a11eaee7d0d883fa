// LoRA (arXiv 2106.09685): low-rank changes beside frozen projections, W + alpha / rank * B A.
//
// A checkpoint that is being trained so has its base's weights in model.safetensors and the changes beside them, as the
// Python package PEFT has them: adapter_model.safetensors, adapter_config.json. Whoever loads a model for anything but
// training gets their sum.
#pragma once
#include <string>

#include "engram/core/env.h"
#include "engram/core/status.h"
#include "engram/model/lora_config.h"
#include "engram/model/transformer.h"

namespace engram {

inline constexpr const char* kAdapterFile = "adapter_model.safetensors";
inline constexpr const char* kAdapterConfigFile = "adapter_config.json";

// Gives every projection that is a target two matrices, parameters of the model: A [rank, in], drawn from torch's
// global RNG as PEFT does, and B [out, rank], zero. REQUIRES: validate().
void add_lora(TransformerImpl& model, const LoraConfig& config);

// Both files. REQUIRES: add_lora() with this configuration.
Status save_lora(Env& env, const std::string& directory, const TransformerImpl& model, const LoraConfig& config);
// Into the parameters that add_lora() made. Exactly those must be in the file; on an error none has changed.
Status load_lora(Env& env, const std::string& directory, TransformerImpl& model);
// Adds what the files hold to the projections of a model that add_lora() has not changed. Without files nothing
// happens.
Status merge_lora(Env& env, const std::string& directory, TransformerImpl& model);

}  // namespace engram
