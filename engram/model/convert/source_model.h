// A model in another program's files, checked and ready to be copied: what `engram import` reads. Torch-free.
#pragma once
#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"
#include "engram/formats/gguf.h"
#include "engram/formats/safetensors.h"
#include "engram/model/io/config_file.h"

namespace engram {

struct SourceTensor {
  TensorSpec spec;  // name and shape as in our files; F32, BF16 or F16, as nothing is lost
  // Rows [begin, end) along the first dimension, as spec.dtype, back to back.
  std::function<void(int64_t begin, int64_t end, std::byte* out)> read;
};

struct SourceModel {
  CheckpointConfig file;
  std::optional<Tokenizer> tokenizer;
  std::vector<SourceTensor> tensors;  // all that the configuration asks for, and no other; they keep the files open
  std::function<Status()> check_unchanged;  // for after the tensors were read
};

// A Hugging Face folder: config.json, tokenizer.json, safetensors files. kNotFound, kDataLoss, kInvalidArgument.
Result<SourceModel> open_hf_folder(Env& env, const std::string& directory);
// A GGUF file of the architecture llama; quantised tensors become F32.
Result<SourceModel> open_gguf_model(Env& env, const std::string& path);
// The same without the tokenizer and its digest; `file` must outlive the tensors.
Result<SourceModel> read_gguf_model(const GgufFile& file);
// The model's tokenizer and its digest. kInvalidArgument: more tokens than the model has.
Status set_tokenizer(Tokenizer tokenizer, SourceModel& model);
// Either of them.
Result<SourceModel> open_source_model(Env& env, const std::string& path);

}  // namespace engram
