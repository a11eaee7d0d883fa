// Transformer: the decoder. Token ids and memory rows in, next-token loss or logits out.
//
// Shapes: B batch, T tokens, d hidden_size, M hc_mult streams, V vocab_size, R rows per token.
// Rows are fetched by the caller (row ids depend on tokens alone): nothing here hashes or reads a table.
// Block order at an Engram layer: H <- H + Y(H, rows), then attention, then FFN (docs/engram.md section 4).
// Two ways through the same blocks: forward() over whole sequences, step() over the new tokens of a batch of sequences
// whose older ones lie in a paged cache.
// In evaluation mode all const functions may be called from several threads at once. In training mode forward() counts
// what its experts and gates did, one forward at a time. Bad shapes throw c10::Error.
#pragma once
#include <torch/nn/module.h>

#include <functional>
#include <optional>
#include <vector>

#include "engram/model/layers/expert_exchange.h"
#include "engram/model/memory/memory_source.h"
#include "engram/model/model_config.h"
#include "engram/model/paged/paged_cache.h"
#include "engram/model/recompute.h"

namespace engram {

struct ForwardInput {
  torch::Tensor tokens;                      // [B, T] int64
  std::vector<MemoryRows> memory;            // one per memory layer, in layer_ids order
  std::vector<std::vector<int32_t>> starts;  // [B] document starts (conv and, if set, attention stop there)
  torch::Tensor masked;                      // [B, T] bool, positions without memory; undefined: none
  bool memory_off = false;                   // knock-out: Engram blocks add nothing (Y = 0)
  Recompute recompute = Recompute::kNone;    // of a training step; with a trace all activations are kept
};

// What a forward pass can leave behind for probes. Null pointers in ForwardOptions cost nothing.
struct ForwardTrace {
  std::vector<torch::Tensor> gates;          // per Engram layer: alpha [B, T, M], detached fp32
  std::vector<torch::Tensor> block_outputs;  // per block: [B, T, d] after the block (streams collapsed), detached
  bool want_block_outputs = false;
  // Called after each block with its residual streams [B, T, M, d] (M = 1 in a plain model), which it may change in
  // place: what the later blocks then read.
  std::function<void(int block, torch::Tensor streams)> after_block;
};

// One step of decoding (or of reading prompts): new tokens of several sequences, back to back.
struct StepInput {
  torch::Tensor tokens;             // [N] int64
  const PagedStep* step = nullptr;  // where they lie
  PagedCache* cache = nullptr;
  // Called once per memory layer, where its rows are needed and not before: [N, R*d_row]. Not called when no token has
  // memory. It may throw.
  std::function<torch::Tensor(int memory_layer)> memory;
  std::vector<torch::Tensor>* gates = nullptr;  // out, when given: per Engram layer alpha [N, G]
  // As ForwardTrace's, with streams [N, M, d].
  std::function<void(int block, torch::Tensor streams)> after_block;
};

class TransformerImpl : public torch::nn::Module {
 public:
  // Registers parameters under DeepSeek's names (docs/formats/checkpoint.md); initialised from torch's global RNG.
  // `expert_ranks`: routed experts lie with several ranks (layers/expert_exchange.h), which call forward() together.
  explicit TransformerImpl(const ModelConfig& config, std::optional<ExpertRanks> expert_ranks = {});
  ~TransformerImpl() override;

  // Hidden states after the final norm: [B, T, d].
  torch::Tensor forward(const ForwardInput& input, ForwardTrace* trace = nullptr) const;
  // Hidden states of the new tokens after the final norm, [N, d]; their pages are written. Without gradients. Equal to
  // forward() over the whole sequences, whatever the steps they are cut into, except for rounding.
  torch::Tensor step(const StepInput& input) const;
  torch::Tensor logits(const torch::Tensor& hidden_BTd) const;  // [B, T, V] (or [N, V]) fp32
  // What the model would predict if it ended after a block: the final norm and the LM head over one of the trace's
  // block_outputs. The last block's are the model's own logits.
  torch::Tensor block_logits(const torch::Tensor& block_output_BTd) const;
  // Mean cross-entropy over targets [B, T] int64 that are >= 0, in nats; never holds all logits at once.
  torch::Tensor loss(const torch::Tensor& hidden_BTd, const torch::Tensor& targets_BT) const;
  // Sum and count instead of the mean, without gradients: for validation.
  std::pair<double, int64_t> loss_sum(const torch::Tensor& hidden_BTd, const torch::Tensor& targets_BT) const;

  // Loss-free balancing: bias += u * sign(mean load - load) from the loads counted since the last call; resets them.
  void update_expert_bias(double u);
  // Per MoE block: [E] int64, tokens of each expert since the last update_expert_bias(). The counters themselves, so
  // that ranks can add theirs.
  std::vector<torch::Tensor> expert_loads() const;
  // Per MoE block: max load / mean load since the last update_expert_bias().
  std::vector<double> expert_load_ratio() const;
  // One forward pass of the other ranks, for a rank that has no tokens in it: its experts are needed.
  void join_experts() const;
  // Per Engram layer: mean gate of the last forward in training mode.
  std::vector<double> gate_means() const;

  // Every memory's value projection becomes zero: it adds nothing until it is trained.
  void silence_memory();

  // Moves the model for inference. Parameters get the dtype; routing biases, which are sums of small steps, stay fp32.
  // On the CPU, bf16 is for the embedding, the head, experts and projections, and the arithmetic stays in fp32.
  void place(torch::Device device, torch::Dtype dtype);
  // Projections that are not trained (requires_grad is false) become bf16, for training in bf16: products round them to
  // that in any case.
  void halve_frozen_projections();

  const ModelConfig& config() const { return config_; }
  const std::optional<ExpertRanks>& expert_ranks() const { return expert_ranks_; }

 private:
  struct Parts;
  ModelConfig config_;
  std::optional<ExpertRanks> expert_ranks_;
  std::unique_ptr<Parts> parts_;
};
TORCH_MODULE(Transformer);

}  // namespace engram
