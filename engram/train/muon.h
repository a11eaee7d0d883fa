// Muon: momentum, then the nearest orthogonal matrix, for the two-dimensional weights of the blocks.
//
//   buf    <- momentum * buf + (1 - momentum) * grad
//   update <- momentum * buf + (1 - momentum) * grad                      (Nesterov)
//   O      <- Newton-Schulz(update / |update|), ns_steps quintic iterations: all singular values near 1
//   weight <- weight * (1 - lr * weight_decay) - lr * 0.2 * sqrt(max(rows, columns)) * O
// This is torch.optim.Muon with adjust_lr_fn = "match_rms_adamw" (tests/parity/muon.safetensors). Each projection of
// a fused weight and each expert is a separate matrix. Matrices of one shape, or of its transpose, go through the
// iteration as one batch, whatever layer they come from. The state is one momentum buffer per parameter.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "engram/train/recipe.h"

namespace engram {

// Defaults are the recipe's.
struct MuonOptions {
  double weight_decay = OptimizerRecipe().weight_decay;
  double momentum = OptimizerRecipe().muon_momentum;
  int64_t ns_steps = OptimizerRecipe().muon_ns_steps;
  // Of the iteration: fp32 on CPU, where small matrices gain nothing from bf16; bf16 suffices on a GPU.
  torch::Dtype ns_dtype = torch::kFloat32;
};

struct MuonParameter {
  std::string name;
  torch::Tensor parameter;          // [.., rows, columns]; leading dimensions count matrices (experts)
  std::vector<int64_t> row_splits;  // row counts of the fused projections, adding up to rows; empty: one matrix
  bool owned = true;                // false: another rank updates it, and its state here is a shape (a meta tensor)
  double lr_factor = 1;
};

// Orthogonalises a batch of matrices [n, rows, columns], rows >= columns, and may use its memory. Returns the dtype it
// was given. fp32 on the CPU goes matrix by matrix (kernels/newton_schulz.h), anything else in batches.
torch::Tensor newton_schulz(torch::Tensor matrices, int64_t steps);

// Not thread-safe. Keeps references to the parameters; reads their gradients in step().
class Muon {
 public:
  // Throws c10::Error on a parameter with fewer than two dimensions or splits that do not add up.
  Muon(std::vector<MuonParameter> parameters, const MuonOptions& options);
  // Parameters without a gradient are left alone.
  void step(double lr);
  // Name and buffer of every parameter, for checkpoints; the tensors are the state itself.
  std::vector<std::pair<std::string, torch::Tensor>> state() const;

 private:
  // One fused projection of one parameter: where its matrices lie in the parameter and in the batch.
  struct Piece {
    size_t parameter = 0;
    int64_t row_begin = 0, rows = 0;  // along the parameter's second-last dimension
    int64_t matrices = 0;
    bool transposed = false;  // wider than tall: the batch holds the transpose
  };
  // Matrices of one shape that share a batch.
  struct Bucket {
    int64_t short_side = 0, long_side = 0;
    std::vector<Piece> pieces;
  };
  // The matrices of a piece inside a tensor that is shaped like its parameter: [n, long, short], a view.
  static torch::Tensor piece_view(const torch::Tensor& tensor, const Piece& piece);
  void step_bucket(const Bucket& bucket, double lr);

  std::vector<MuonParameter> parameters_;
  std::vector<torch::Tensor> momentum_;
  std::vector<Bucket> buckets_;
  MuonOptions options_;
};

}  // namespace engram
