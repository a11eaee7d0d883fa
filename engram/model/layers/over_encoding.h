// OverEncoding: hashed n-gram embeddings at the input, the baseline memory (Huang et al., arXiv 2501.16975).
//
//   OE(x_t) = (E(x_t) + sum over orders i = 2..N and heads j = 1..K of W_ij e_ij(h_i)) / (1 + (N-1)*K)
//
// e_ij are rows of the n-gram tables and h_i the hash of the i-gram that ends at t. The paper takes the i-gram's
// index modulo each table's size; here rows are addressed by the Engram's own hash, so the two memories are compared
// at equal tables and equal collisions. All W_ij are one matrix [d, R*r] over the concatenated rows, R = (N-1)*K.
// LongCat's memory is the same with its own hash (the rule longcat). LongCat-Flash-Lite averages as above; LongCat-2.0
// leaves the word as it is (engram_average_word = false): E(x_t) + sum / (1 + (N-1)*K).
// Parameter: proj.weight [d, R*r]. Not thread-safe; bad shapes throw c10::Error.
#pragma once
#include <torch/nn/module.h>

#include "engram/model/layers/engram.h"
#include "engram/model/memory/memory_source.h"
#include "engram/model/model_config.h"
#include "engram/model/paged/paged_cache.h"

namespace engram {

class OverEncodingImpl : public torch::nn::Module {
 public:
  explicit OverEncodingImpl(const ModelConfig& config);
  // [B, T, d]. Undefined rows.unique_rows is the knock-out: every row reads as zero.
  torch::Tensor forward(const torch::Tensor& embedding_BTd, const MemoryRows& rows);
  // The same for the new tokens of a step: [N, d]. memory_Nm: their rows side by side, [N, R*r]; undefined: no token
  // has memory.
  torch::Tensor step(const torch::Tensor& embedding_Nd, const torch::Tensor& memory_Nm, const PagedStep& step);

  // The projection becomes zero, so that rows add nothing.
  void silence();

 private:
  // memory: rows side by side, or undefined.
  torch::Tensor join(const torch::Tensor& embedding, const torch::Tensor& memory) const;

  int64_t memory_dim_;
  double share_;  // 1 / (1 + R)
  bool averages_word_;
  Weights proj_{nullptr};
};
TORCH_MODULE(OverEncoding);

}  // namespace engram
