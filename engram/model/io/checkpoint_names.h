// How a Transformer's parameters are named on disk (docs/formats/checkpoint.md).
//
// In memory, projections of the same input are one tensor, and so are the experts of a block; on disk each has
// DeepSeek's name. A stored tensor reads and writes the parameter it belongs to in place.
#pragma once
#include <torch/types.h>

#include <string>
#include <utility>
#include <vector>

#include "engram/model/io/streamed_tensor.h"
#include "engram/model/transformer.h"

namespace engram {

struct StoredTensor {
  StreamedTensor tensor;   // its name is that in the file
  bool keep_fp32 = false;  // buffers that stay exact in reduced-precision copies
  bool spread = false;     // an expert of a model whose experts lie with several ranks
};

struct StoredTensors {
  std::vector<StoredTensor> model;   // model.safetensors
  std::vector<StoredTensor> engram;  // engram.safetensors, except the tables
};

StoredTensors stored_tensors(const TransformerImpl& model);

// The parts, top to bottom, of which the parameter `name` with so many rows consists on disk: their names and rows. One
// for most parameters, and for experts, which are cut otherwise.
std::vector<std::pair<std::string, int64_t>> stored_parts(const ModelConfig& config, std::string name, int64_t rows);

// engram.safetensors name of memory layer `layer`'s table: layers.{block}.engram.embed.weight.
std::string table_name(const ModelConfig& config, int layer);

// True for names of fused tensors, which files never hold.
bool is_fused_name(const std::string& name);

}  // namespace engram
