// Representation alignment (experiment E6): which block of one model does a block of another look like?
//
// Centred kernel alignment with linear kernels over the states of named entities' last tokens. HSIC is the unbiased
// estimator of Song et al. 2012, summed over mini-batches (Nguyen et al. 2021), so the result does not depend on the
// size of a mini-batch in expectation:
//   HSIC(K, L) = [tr(K L) + (1'K1)(1'L1) / ((n-1)(n-2)) - 2 / (n-2) 1'KL1] / (n (n-3)),  diagonals of K, L set to 0
//   S_ij = sum HSIC(K_i, L_j) / sqrt(sum HSIC(K_i, K_i) sum HSIC(L_j, L_j))
// Soft alignment index: a_j = sum S_ij i / sum S_ij over the 5 largest S_ij of column j, layers counted from 0
// (the paper counts from 1). Beside it stands the nearest single layer.
#pragma once
#include <torch/types.h>

#include <vector>

#include "engram/lab/pages/statistics.h"
#include "engram/lab/probes/probe.h"
#include "engram/lab/text/entities.h"

namespace engram {

inline constexpr int64_t kAlignmentBatch = 64;  // entities of one mini-batch; REQUIRED: at least 4
inline constexpr size_t kAlignmentTop = 5;

// Unbiased HSIC of every pair of Gram matrices: K [a, n, n], L [b, n, n] -> [a, b], double. REQUIRES: n >= 4.
torch::Tensor unbiased_hsic(const torch::Tensor& grams_K, const torch::Tensor& grams_L);

// Sums over mini-batches, kept apart so that mini-batches can be resampled.
struct AlignmentBatches {
  std::vector<torch::Tensor> cross, first, second;  // per mini-batch: [a, b], [a], [b]
};
// states: one [n, d] tensor per block, the same n entities in both. Entities beyond the last whole mini-batch are left
// out. REQUIRES: n >= batch.
AlignmentBatches align_batches(const std::vector<torch::Tensor>& states_a, const std::vector<torch::Tensor>& states_b,
                               int64_t batch);
// S [a][b] over the chosen mini-batches.
std::vector<std::vector<double>> similarity(const AlignmentBatches& batches, std::span<const int64_t> chosen);
// a_j for every column j; negative similarities count as 0.
std::vector<double> soft_index(const std::vector<std::vector<double>>& similarity);

// The states after each block at the given tokens of the text, [positions, d] double each, read in windows of
// `window` tokens.
std::vector<torch::Tensor> states_at(const LoadedModel& model, const ProbeText& text,
                                     const std::vector<int64_t>& positions, int64_t window);

Result<ProbeResult> probe_alignment(const ProbeContext& context);

}  // namespace engram
