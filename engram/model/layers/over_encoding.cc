#include "engram/model/layers/over_encoding.h"

#include "engram/model/layers/norm.h"
#include "engram/model/ops/ops.h"

namespace engram {

OverEncodingImpl::OverEncodingImpl(const ModelConfig& config)
    : memory_dim_(config.engram.memory_dim()),
      share_(1.0 / (1.0 + static_cast<double>(config.engram.rows_per_token()))),
      averages_word_(config.engram_average_word) {
  proj_ = register_module("proj", Weights(initial_weight({config.hidden_size, memory_dim_}, config.initializer_range)));
}

torch::Tensor OverEncodingImpl::join(const torch::Tensor& embedding, const torch::Tensor& memory) const {
  if (!memory.defined()) return averages_word_ ? embedding * share_ : embedding;
  const torch::Tensor sum = torch::linear(memory, proj_->weight);
  return averages_word_ ? (embedding + sum) * share_ : embedding + sum * share_;
}

void OverEncodingImpl::silence() {
  const torch::NoGradGuard no_grad;
  proj_->weight.zero_();
}

torch::Tensor OverEncodingImpl::forward(const torch::Tensor& embedding_BTd, const MemoryRows& rows) {
  if (!rows.unique_rows.defined()) return join(embedding_BTd, {});
  TORCH_CHECK(rows.index.dim() == 3 && rows.index.size(2) * rows.unique_rows.size(1) == memory_dim_ &&
                  rows.index.size(0) == embedding_BTd.size(0) && rows.index.size(1) == embedding_BTd.size(1),
              "over_encoding: the rows do not fit embeddings ", embedding_BTd.sizes(),
              " with R * d_row = ", memory_dim_);
  return join(embedding_BTd, gather_rows(rows.unique_rows, rows.index));
}

torch::Tensor OverEncodingImpl::step(const torch::Tensor& embedding_Nd, const torch::Tensor& memory_Nm,
                                     const PagedStep& step) {
  if (!memory_Nm.defined()) return join(embedding_Nd, {});
  TORCH_CHECK(memory_Nm.sizes() == torch::IntArrayRef({step.num_tokens(), memory_dim_}), "over_encoding: got rows ",
              memory_Nm.sizes(), ", wanted [", step.num_tokens(), ", ", memory_dim_, "]");
  if (!step.memory_off().defined()) return join(embedding_Nd, memory_Nm);
  return join(embedding_Nd, memory_Nm.masked_fill(step.memory_off().unsqueeze(1), 0.0));
}

}  // namespace engram
