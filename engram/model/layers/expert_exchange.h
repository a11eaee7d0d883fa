// Routed experts that lie with several ranks. Each has consecutive ones of every block, [E r / N, E (r + 1) / N).
//
// The rows of a micro-batch go to the owners of their experts, sorted by expert, and come back without weights; the
// rank whose tokens they are adds them. An owner works on each rank's rows by themselves, in the order in which that
// rank has them, and adds the gradients of micro-batches pairwise, as PairwiseSum does for every other weight. So all
// products and sums are those of moe_experts(), bit for bit.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "engram/dist/communicator.h"
#include "engram/dist/pairwise_sum.h"
#include "engram/dist/partition.h"

namespace engram {

struct ExpertRanks {
  Communicator* ranks = nullptr;  // outlives the model
  int64_t most_tokens = 0;        // of one forward pass on any rank; what arrives is held to it
  int64_t micro_batches = 1;      // backward passes of one step on each rank

  // Rank r has the experts [first[r], first[r + 1]).
  std::vector<int64_t> first_experts(int64_t experts) const;
  Range own_experts(int64_t experts) const { return even_range(experts, ranks->size(), ranks->rank()); }
};

// The experts of one block. Its calls are exchanges on Channel::kExpert: all ranks make the same in the same order, a
// rank without tokens too. Not thread-safe. Throws ExchangeFailed, and c10::Error on counts that no rank can mean.
class ExpertExchange {
 public:
  ExpertExchange(const ExpertRanks& ranks, int64_t experts);

  // moe_experts() (ops.h) with the own experts' weights [E_own, 2f, d], [E_own, d, f]; fp32 or bf16 rows on the CPU.
  // The weights' gradient is that of the whole step, all ranks' micro-batches, and comes with the step's last backward.
  torch::Tensor run(const torch::Tensor& x, const torch::Tensor& gate_up, const torch::Tensor& down,
                    const torch::Tensor& topk_index, const torch::Tensor& topk_weight);

 private:
  struct Function;
  struct Pass;
  void exchange_counts(Pass& pass, int64_t tokens) const;
  Exchange send(const torch::Tensor& to, const std::vector<int64_t>& to_counts, const torch::Tensor& from,
                const std::vector<int64_t>& from_counts) const;
  void add_gradient(size_t rank, torch::Tensor gate_up, torch::Tensor down);
  std::vector<torch::Tensor> end_backward();

  ExpertRanks ranks_;
  int64_t experts_;
  std::vector<int64_t> first_;
  std::vector<PairwiseSum> sums_;  // of each rank's micro-batches
  PairwiseSum total_;
  int64_t backwards_ = 0;  // of this step
};

}  // namespace engram
