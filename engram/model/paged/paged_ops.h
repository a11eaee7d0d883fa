// The two operators that decode over pages (paged_cache.h): attention, and Engram's gates and convolution.
//
// Forward only. On CPU in fp32 they run kernels (kernels/paged_attention.h, kernels/paged_engram.h); on a GPU in bf16
// attention is libtorch's FlashAttention over the gathered rows; elsewhere they are composed of libtorch operators,
// sequence by sequence, which is also their oracle. Bad shapes throw c10::Error.
#pragma once
#include <torch/types.h>

#include <utility>

#include "engram/model/ops/ops.h"
#include "engram/model/paged/paged_cache.h"

namespace engram {

// How keys and values lie in a cached row: key-value head h has its key at column key_at + h * key_width.
struct PagedHeads {
  int64_t heads = 1, kv_heads = 1;
  int64_t key_width = 0, value_width = 0;
  int64_t key_at = 0, value_at = 0;
  double scale = 1.0;
};

//   query  [N, heads * key_width], rotated;  cache [S, width], the new tokens written
// Returns [N, heads * value_width].
torch::Tensor attend_paged(const torch::Tensor& query, const torch::Tensor& cache, const PagedStep& step,
                           const PagedHeads& heads);
torch::Tensor attend_paged_plain(const torch::Tensor& query, const torch::Tensor& cache, const PagedStep& step,
                                 const PagedHeads& heads);

// The convolution's taps with its norm's weight in them, [w, G*d] fp32 for the kernel: the same from step to step.
torch::Tensor fold_taps(const torch::Tensor& conv_norm, const torch::Tensor& conv_weight);

// engram_fuse (ops.h) for new tokens: writes their rows into `cache` [S, d + 2 G] and reads those of older ones.
//   hidden [N, G, d];  projected [N, (G+1)*d];  norms and conv as in engram_fuse
//   taps   fold_taps() of conv_norm and conv_weight, on the CPU; the plain form takes none
// Returns Y [N, G, d] and the gates [N, G]; both are zero at tokens without memory.
std::pair<torch::Tensor, torch::Tensor> engram_fuse_paged(const torch::Tensor& hidden, const torch::Tensor& projected,
                                                          const torch::Tensor& query_norm,
                                                          const torch::Tensor& key_norm, const torch::Tensor& conv_norm,
                                                          const torch::Tensor& conv_weight, const torch::Tensor& taps,
                                                          const PagedStep& step, torch::Tensor& cache,
                                                          const EngramFuseOptions& options);
std::pair<torch::Tensor, torch::Tensor> engram_fuse_paged_plain(
    const torch::Tensor& hidden, const torch::Tensor& projected, const torch::Tensor& query_norm,
    const torch::Tensor& key_norm, const torch::Tensor& conv_norm, const torch::Tensor& conv_weight,
    const PagedStep& step, torch::Tensor& cache, const EngramFuseOptions& options);

}  // namespace engram
