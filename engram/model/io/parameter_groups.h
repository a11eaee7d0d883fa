// Which optimiser each parameter of a Transformer belongs to, and how a fused tensor splits into matrices.
//
// Muon takes the 2-D weights of the backbone; each expert and each projection of a fused matrix is a separate matrix,
// because orthogonalising a stack mixes projections that are not related. AdamW takes the
// embedding, the head, norms, biases, routers, hyper-connections and the convolution (paper, appendix A). Tables are
// not parameters of the module: train/ keeps them.
#pragma once
#include <torch/types.h>

#include <string>
#include <vector>

#include "engram/model/parameter_role.h"
#include "engram/model/transformer.h"

namespace engram {

enum class ParameterKind { kMatrix, kVector };  // Muon, AdamW

struct ParameterInfo {
  std::string name;      // as in named_parameters()
  torch::Tensor tensor;  // the module's own, not a copy
  ParameterKind kind = ParameterKind::kVector;
  ParameterRole role = ParameterRole::kNorm;
  // kMatrix: heights of the stacked matrices along dimension -2; they sum to it. A 3-D tensor [E, rows, columns] holds
  // E such stacks. Empty for kVector.
  std::vector<int64_t> row_splits;
  // Of experts that lie with several ranks: rank r has the rows [begins[r], begins[r + 1]) of dimension 0, and `tensor`
  // is the own ones. Empty: every rank has all.
  std::vector<int64_t> begins;
  // Weight decay for weights that multiply activations (2-D and 3-D), none for norms, biases and other scales: the
  // convention of GPT-2-style trainers. The convolution starts at zero and stays undecayed, as its taps are scales.
  bool decay = false;
};

// In the order of named_parameters(). ENGRAM_CHECKs that the splits add up.
std::vector<ParameterInfo> parameter_groups(const TransformerImpl& model);

}  // namespace engram
