// Model checkpoints: a directory with config.json, tokenizer.json, model.safetensors, engram.safetensors.
//
// Names are DeepSeek's where they exist (docs/formats/checkpoint.md). Loading checks every name, shape and dtype
// against the configuration before a tensor is changed. Saving here writes files into a directory that the caller
// publishes (train/train_state.h renames it into place); optimizer and train state are train's.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"
#include "engram/formats/safetensors.h"
#include "engram/hash/memory_hasher.h"
#include "engram/model/io/config_file.h"
#include "engram/model/io/streamed_tensor.h"
#include "engram/model/io/tensor_file.h"
#include "engram/model/memory/memory_source.h"
#include "engram/model/transformer.h"

namespace engram {

// The tokens -> row ids half of a model. Fails unless config.engram.compressed_vocab_size equals the tokenizer's (or,
// without compression, vocab_size).
Result<MemoryHasher> make_memory_hasher(const ModelConfig& config, const Tokenizer& tokenizer);

// A model ready to run: weights, tokenizer, hashing, tables.
struct LoadedModel {
  std::string directory;  // the step directory that was read
  ModelConfig config;
  SpecialTokens special;
  std::string chat_template;   // config.json's, "" for none
  Transformer model{nullptr};  // in evaluation mode
  std::shared_ptr<const Tokenizer> tokenizer;
  MemoryHasher hasher;
  std::vector<std::unique_ptr<MemorySource>> tables;  // one per memory layer

  // Hashes and gathers: everything forward() needs, on the model's device. tokens [B, T] raw ids, -1 masked; starts
  // [B] (may be empty). Throws on ids outside the vocabulary. memory_off: nothing is hashed or gathered.
  ForwardInput prepare_input(const std::vector<int32_t>& tokens, int64_t batch, int64_t length,
                             const std::vector<std::vector<int32_t>>& starts = {}, bool memory_off = false) const;
};

struct LoadOptions {
  torch::Device device = torch::kCPU;
  // Of the weights in memory: fp32, or bf16 (see place()); none: as the file has them. A GPU has bf16 always.
  std::optional<torch::Dtype> dtype = torch::kFloat;
  bool with_tables = true;  // false: `tables` stays empty, for tables that are read from elsewhere (served_tables.h)
};
// path: as in resolve_checkpoint(). kNotFound, kDataLoss, kInvalidArgument.
Result<LoadedModel> load_model(Env& env, const std::string& path, const LoadOptions& options = {});

// dtype of the stored weights: fp32 for training checkpoints, bf16 for compact copies (routing biases stay fp32).
// table_rows: one of [num_rows, d_row] per memory layer; its name does not matter. Creates the directory.
// kInvalidArgument: tables or vocabulary that do not fit the configuration; nothing is written then.
Status save_model(Env& env, const std::string& directory, const CheckpointConfig& file, const Tokenizer& tokenizer,
                  const TransformerImpl& model, std::vector<StreamedTensor> table_rows,
                  torch::Dtype dtype = torch::kFloat);
// The checkpoint `path` in a new folder, its low-rank changes merged; it keeps no state of training. dtype: as stored
// when it is absent.
Status copy_model(Env& env, const std::string& path, const std::string& directory,
                  std::optional<torch::Dtype> dtype = std::nullopt);
// Those of the model's weights that lie with several ranks, in the order in which rank 0's save_model() and
// load_weights() go through them: the other ranks follow (streamed_tensor.h).
std::vector<StreamedTensor> spread_weights(const TransformerImpl& model);
// Weights only, into an existing model (resume). Exact for fp32. On an error no tensor has changed.
Status load_weights(Env& env, const std::string& directory, TransformerImpl& model);
// Those of a model without memory, into one that has the same and a memory, which is not changed.
Status load_backbone(Env& env, const std::string& directory, TransformerImpl& model);
// One [num_rows, d_row] fp32 tensor per memory layer, copied.
Result<std::vector<torch::Tensor>> load_table_rows(Env& env, const std::string& directory, const ModelConfig& config);
// The same, into `tables`, one per memory layer. On an error none has changed, unless the file changes meanwhile.
Status fill_table_rows(Env& env, const std::string& directory, const ModelConfig& config,
                       const std::vector<StreamedTensor>& tables);

}  // namespace engram
