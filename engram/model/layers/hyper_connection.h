// Manifold-constrained hyper-connections (mHC, arXiv 2512.24880): n residual streams around each sub-layer F.
//
// With u = the token's n streams as one row of n*d, r = rsqrt(mean(u^2) + eps) and mix = (fn u) * r:
//   pre  = sigmoid(mix_pre * scale_0 + base_pre) + hc_eps          F reads     sum_i pre_i x_i
//   post = 2 * sigmoid(mix_post * scale_1 + base_post)             new x_j  =  post_j * F(..) + sum_i comb[i][j] x_i
//   comb = Sinkhorn(softmax(mix_comb * scale_2 + base_comb))       rows and columns sum to 1: the mix cannot blow up
// All of it in fp32. Oracle: transformers deepseek_v4 (tests/parity), from which the order of the Sinkhorn steps and
// the index order of comb come.
//
// Initialised so that step 0 is a plain residual network: fn = 0, sum_i pre_i = 1, post = 1, comb near the identity.
// Then all streams are equal, and if pre were uniform too they would stay equal for ever: every gradient would be the
// same for every stream. So each sub-layer leans towards one stream, in turn (as hyper-connections, arXiv 2409.19606,
// read one stream per layer).
// Parameters: fn [(2+n)*n, n*d], base [(2+n)*n], scale [3];  head: hc_fn [n, n*d], hc_base [n], hc_scale [1].
#pragma once
#include <torch/nn/module.h>

#include "engram/model/model_config.h"

namespace engram {

struct HyperOptions {
  int64_t streams = 1;  // n
  int iterations = 20;
  double eps = 1e-6;  // hc_eps
  double norm_eps = 1e-6;
};

struct HyperMix {
  torch::Tensor input_Nd;         // what F reads
  torch::Tensor coefficients_NK;  // [N, (2 + n) * n]: pre, post, comb by rows (old stream), in this order
};
// The mix before F, from streams [N, n, d]. On CPU in fp32 a kernel (engram/kernels/hyper.h), elsewhere the plain form.
HyperMix hyper_mix(const torch::Tensor& streams_Nnd, const torch::Tensor& fn, const torch::Tensor& base,
                   const torch::Tensor& scale, const HyperOptions& options);
HyperMix hyper_mix_plain(const torch::Tensor& streams_Nnd, const torch::Tensor& fn, const torch::Tensor& base,
                         const torch::Tensor& scale, const HyperOptions& options);
// The new streams [N, n, d], from F's output [N, d].
torch::Tensor hyper_merge(const torch::Tensor& coefficients_NK, const torch::Tensor& streams_Nnd,
                          const torch::Tensor& output_Nd);
torch::Tensor hyper_merge_plain(const torch::Tensor& coefficients_NK, const torch::Tensor& streams_Nnd,
                                const torch::Tensor& output_Nd);
// Views of the coefficients: post [N, n]; comb [N, n, n], first index the old stream, second the new one.
torch::Tensor hyper_post(const torch::Tensor& coefficients_NK, int64_t streams);
torch::Tensor hyper_comb(const torch::Tensor& coefficients_NK, int64_t streams);

class HyperConnectionImpl : public torch::nn::Module {
 public:
  // sub_layer: its number in the model, which decides the stream it leans towards.
  HyperConnectionImpl(const ModelConfig& config, int sub_layer);
  HyperMix mix(const torch::Tensor& streams_Nnd);
  static torch::Tensor merge(const HyperMix& mix, const torch::Tensor& streams_Nnd, const torch::Tensor& output_Nd);

 private:
  HyperOptions options_;
  torch::Tensor fn_, base_, scale_;
};
TORCH_MODULE(HyperConnection);

// Collapses the streams before the final norm: sum_i (sigmoid(mix_i * scale + base_i) + hc_eps) x_i.
class HyperHeadImpl : public torch::nn::Module {
 public:
  explicit HyperHeadImpl(const ModelConfig& config);
  torch::Tensor forward(const torch::Tensor& streams_Nnd);  // [N, d]

 private:
  double hc_eps_, norm_eps_;
  torch::Tensor fn_, base_, scale_;
};
TORCH_MODULE(HyperHead);

}  // namespace engram
