// How a Transformer's parameters are named on disk (docs/formats/checkpoint.md).
//
// In memory, projections of the same input are one tensor, and so are the experts of a block; on disk each has
// DeepSeek's name. A stored tensor is a view into the parameter it belongs to: saving reads it, loading fills it.
#pragma once
#include <torch/types.h>

#include <string>
#include <vector>

#include "engram/model/transformer.h"

namespace engram {

struct StoredTensor {
  std::string name;        // in the file
  torch::Tensor view;      // shares storage with the module; maybe not contiguous
  bool keep_fp32 = false;  // buffers that stay exact in reduced-precision copies
};

struct StoredTensors {
  std::vector<StoredTensor> model;   // model.safetensors
  std::vector<StoredTensor> engram;  // engram.safetensors, except the tables
};

StoredTensors stored_tensors(const TransformerImpl& model);

// engram.safetensors name of memory layer `layer`'s table: layers.{block}.engram.embed.weight.
std::string table_name(const ModelConfig& config, int layer);

// True for names of fused tensors, which files never hold.
bool is_fused_name(const std::string& name);

}  // namespace engram
