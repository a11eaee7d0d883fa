#include "engram/model/ops.h"

namespace engram {
namespace {

void check_moe(const torch::Tensor& x, const torch::Tensor& gate_up, const torch::Tensor& down,
               const torch::Tensor& topk_index, const torch::Tensor& topk_weight) {
  TORCH_CHECK(x.dim() == 2 && gate_up.dim() == 3 && down.dim() == 3 && gate_up.size(2) == x.size(1) &&
                  gate_up.size(0) == down.size(0) && down.size(1) == x.size(1) && gate_up.size(1) == 2 * down.size(2),
              "moe_experts: got x ", x.sizes(), ", gate_up ", gate_up.sizes(), ", down ", down.sizes(),
              ", wanted [N, d], [E, 2f, d], [E, d, f]");
  TORCH_CHECK(topk_index.dim() == 2 && topk_index.size(0) == x.size(0) && topk_index.scalar_type() == torch::kLong &&
                  topk_weight.sizes() == topk_index.sizes(),
              "moe_experts: got topk_index ", topk_index.sizes(), ' ', topk_index.scalar_type(), ", topk_weight ",
              topk_weight.sizes(), ", wanted [N, k] int64 and [N, k] for N ", x.size(0));
}

void check_linear_cross_entropy(const torch::Tensor& hidden, const torch::Tensor& weight,
                                const torch::Tensor& targets) {
  TORCH_CHECK(hidden.dim() == 2 && weight.dim() == 2 && hidden.size(1) == weight.size(1) && targets.dim() == 1 &&
                  targets.size(0) == hidden.size(0) && targets.scalar_type() == torch::kLong,
              "linear_cross_entropy: got hidden ", hidden.sizes(), ", weight ", weight.sizes(), ", targets ",
              targets.sizes(), ' ', targets.scalar_type(), ", wanted [N, d], [V, d], [N] int64");
}

}  // namespace

torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps) {
  return rms_norm_composed(x, weight, eps);
}

torch::Tensor swiglu(const torch::Tensor& gate_up) {
  TORCH_CHECK(gate_up.dim() >= 1 && gate_up.size(-1) % 2 == 0, "swiglu: got ", gate_up.sizes(), ", wanted [.., 2f]");
  return swiglu_composed(gate_up);
}

torch::Tensor apply_rope(const torch::Tensor& x, const torch::Tensor& cos, const torch::Tensor& sin,
                         bool interleaved) {
  return apply_rope_composed(x, cos, sin, interleaved);
}

torch::Tensor linear_cross_entropy(const torch::Tensor& hidden, const torch::Tensor& weight,
                                   const torch::Tensor& targets, bool reduction_sum) {
  check_linear_cross_entropy(hidden, weight, targets);
  return linear_cross_entropy_composed(hidden, weight, targets, reduction_sum);
}

torch::Tensor moe_experts(const torch::Tensor& x, const torch::Tensor& gate_up, const torch::Tensor& down,
                          const torch::Tensor& topk_index, const torch::Tensor& topk_weight) {
  check_moe(x, gate_up, down, topk_index, topk_weight);
  return moe_experts_composed(x, gate_up, down, topk_index, topk_weight);
}

torch::Tensor gather_rows(const torch::Tensor& unique_rows, const torch::Tensor& index) {
  TORCH_CHECK(unique_rows.dim() == 2 && index.dim() == 3 && index.scalar_type() == torch::kLong,
              "gather_rows: got rows ", unique_rows.sizes(), ", index ", index.sizes(), ' ', index.scalar_type(),
              ", wanted [U, r], [B, T, R] int64");
  return gather_rows_composed(unique_rows, index);
}

std::pair<torch::Tensor, torch::Tensor> engram_fuse(const torch::Tensor& hidden, const torch::Tensor& projected,
                                                    const torch::Tensor& query_norm, const torch::Tensor& key_norm,
                                                    const torch::Tensor& conv_norm, const torch::Tensor& conv_weight,
                                                    const torch::Tensor& reach, const EngramFuseOptions& options) {
  return engram_fuse_composed(hidden, projected, query_norm, key_norm, conv_norm, conv_weight, reach, options);
}

}  // namespace engram
