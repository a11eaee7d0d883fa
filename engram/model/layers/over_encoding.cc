#include "engram/model/layers/over_encoding.h"

#include "engram/model/layers/norm.h"
#include "engram/model/ops/ops.h"

namespace engram {

OverEncodingImpl::OverEncodingImpl(const ModelConfig& config)
    : memory_dim_(config.engram.memory_dim()), rows_per_token_(config.engram.rows_per_token()) {
  proj_ = register_module("proj", Weights(initial_weight({config.hidden_size, memory_dim_}, config.initializer_range)));
}

torch::Tensor OverEncodingImpl::forward(const torch::Tensor& embedding_BTd, const MemoryRows& rows) {
  const double scale = 1.0 / (1.0 + static_cast<double>(rows_per_token_));
  if (!rows.unique_rows.defined()) return embedding_BTd * scale;
  TORCH_CHECK(rows.index.dim() == 3 && rows.index.size(2) * rows.unique_rows.size(1) == memory_dim_ &&
                  rows.index.size(0) == embedding_BTd.size(0) && rows.index.size(1) == embedding_BTd.size(1),
              "over_encoding: the rows do not fit embeddings ", embedding_BTd.sizes(),
              " with R * d_row = ", memory_dim_);
  torch::Tensor memory = gather_rows(rows.unique_rows, rows.index);
  return (embedding_BTd + torch::linear(memory, proj_->weight)) * scale;
}

torch::Tensor OverEncodingImpl::step(const torch::Tensor& embedding_Nd, const torch::Tensor& memory_Nm,
                                     const PagedStep& step) {
  const double scale = 1.0 / (1.0 + static_cast<double>(rows_per_token_));
  if (!memory_Nm.defined()) return embedding_Nd * scale;
  TORCH_CHECK(memory_Nm.sizes() == torch::IntArrayRef({step.num_tokens(), memory_dim_}), "over_encoding: got rows ",
              memory_Nm.sizes(), ", wanted [", step.num_tokens(), ", ", memory_dim_, "]");
  torch::Tensor memory = memory_Nm;
  if (step.memory_off().defined()) {
    memory = memory.masked_fill(step.memory_off().unsqueeze(1), 0.0);
  }
  return (embedding_Nd + torch::linear(memory, proj_->weight)) * scale;
}

}  // namespace engram
