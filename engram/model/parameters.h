// Parameter accounting and the allocation solver (docs/engram.md section 6: P_tot, P_act, P_sparse, rho).
//
//   P_tot     all trainable parameters except the vocabulary embedding and the LM head
//   P_act     what one token uses of P_tot: attention, norms, routers, hyper-connections, dense and shared FFNs, k
//             routed experts per MoE block, each Engram block's projections, norms and conv, and its R rows
//   P_sparse  P_tot - P_act;  rho = (MoE blocks) * (E - k) * 3 * d * f / P_sparse
// Counts come from shapes alone: no tensor is made. Torch-free. Source: the paper, section 3.
#pragma once
#include <cstdint>
#include <string>

#include "engram/core/status.h"
#include "engram/model/model_config.h"

namespace engram {

struct ParameterCount {
  int64_t p_tot = 0, p_act = 0, p_sparse = 0;
  int64_t vocabulary = 0;  // embedding + head, outside P_tot
  int64_t table = 0;       // all memory rows
  int64_t routed = 0;      // all routed experts
  double rho = 1.0;        // 1 when there is neither table nor sparse expert
};
Result<ParameterCount> count_parameters(const ModelConfig& config);

// Floating-point operations of training on one token in sequences of `length`, forward and backward, a multiply-add
// being two: 6 for each weight that a token meets in a product (P_act without the rows, and the head), and 6 * length
// for each column of queries and values in every block's attention. Other trainers count alike (PaLM, appendix B):
// what attention hides counts, what is computed again does not.
double training_flops_per_token(const ModelConfig& config, const ParameterCount& count, int64_t length);

// What one token uses of block `block`, norms of its layers included; memory without its rows. Over-encoding counts for
// block 0.
struct BlockParameters {
  int64_t attention = 0, ffn = 0, memory = 0;
};
BlockParameters active_parameters(const ModelConfig& config, int block);

// Each head gets about so many rows: one start of the prime search for all orders, or longcat's ratio, for which
// compressed_vocab_size must be known.
void set_head_rows(EngramConfig& config, int64_t rows);
// The same for all, so that the tables together have as nearly `wanted` rows as whole starts allow. Their rows.
Result<int64_t> size_tables(double wanted, EngramConfig& config);

// "Equal parameters": how far P_act and P_tot may lie from what they are to equal, as a share of it. One promise, kept
// by solve_allocation() and by the controls of a study.
inline constexpr double kActiveTolerance = 0.005, kTotalTolerance = 0.002;

// Experts that stay when a share rho of the sparse ones does: k + round(rho * (E0 - k)).
int experts_at(int n_routed_experts, int num_experts_per_tok, double rho);

struct Allocation {
  ModelConfig config;   // solved: memory, n_routed_experts, shared_expert_intermediate_size, heads' rows
  ParameterCount base;  // of the recipe at rho = 1
  ParameterCount solved;
};
// From a configuration at rho = 1 (its engram section names layers, orders, heads, head_dim; memory is ignored in the
// base count) to one at `rho`: E = experts_at(E0, k, rho); the Engram blocks' share of P_act, less what the smaller
// router saves, is paid by narrowing the shared expert in steps of 1, to no less than 1 (P_act within
// kActiveTolerance); the tables' start size, one for all orders, is searched so that P_tot over the actual primes lies
// within kTotalTolerance. base.memory = over_encoding solves for that memory, anything else for engram.
// kInvalidArgument, with the numbers, when it cannot be paid. rho = 1 returns the base with memory = none.
Result<Allocation> solve_allocation(const ModelConfig& base, double rho);

std::string describe(const ParameterCount& count);  // one line for logs: P_tot, P_act, P_sparse, rho

}  // namespace engram
