// Hyper-connections against transformers' deepseek_v4, the doubly stochastic mix, and the start as a plain residual.
#include "engram/model/layers/hyper_connection.h"

#include <torch/optim/sgd.h>

#include "tests/model/parity.h"

namespace engram {
namespace {

ModelConfig hyper_config(int streams, int iterations) {
  ModelConfig c;
  c.vocab_size = 96;
  c.hidden_size = 12;
  c.residual = ResidualKind::kHyper;
  c.hc_mult = streams;
  c.hc_sinkhorn_iters = iterations;
  c.rms_norm_eps = 1e-5;
  return c;
}

void expect_connection_parity(const std::string& name, int streams, int iterations) {
  const parity::Tensors v = parity::load(name);
  for (const auto& [dtype, relative] : parity::precisions()) {
    HyperConnection hyper(hyper_config(streams, iterations), 0);
    parity::fill_parameters(*hyper, v);
    hyper->to(dtype);
    torch::Tensor hidden = parity::leaf(v.at("hidden"), dtype);
    torch::Tensor output = parity::leaf(v.at("sub_layer_output"), dtype);
    torch::Tensor x = hidden.view({-1, streams, 12});
    const HyperMix mix = hyper->mix(x);
    torch::Tensor merged = HyperConnectionImpl::merge(mix, x, output.view({-1, 12}));
    const std::map<std::string, torch::Tensor> results = {{"collapsed", mix.input_Nd},
                                                          {"merged", merged},
                                                          {"post", hyper_post(mix.coefficients_NK, streams)},
                                                          {"comb", hyper_comb(mix.coefficients_NK, streams)}};
    torch::Tensor loss = torch::zeros({}, dtype);
    for (const auto& [key, value] : results) {
      torch::Tensor shaped = value.reshape(v.at(key).sizes());
      parity::expect_close(shaped, v.at(key), relative, key);
      loss = loss + (shaped * v.at("loss_weight." + key).to(dtype)).sum();
    }
    loss.backward();
    parity::expect_close(hidden.grad(), v.at("grad.hidden"), relative, "grad.hidden");
    parity::expect_close(output.grad(), v.at("grad.sub_layer_output"), relative, "grad.sub_layer_output");
    parity::expect_gradients(*hyper, v, relative);
  }
}

TEST(HyperConnection, EqualsDeepseekV4) { expect_connection_parity("deepseek_v4_hyper_connection", 4, 20); }
TEST(HyperConnection, TwoStreamsEqualDeepseekV4) { expect_connection_parity("deepseek_v4_hyper_connection_n2", 2, 3); }

TEST(HyperConnection, HeadEqualsDeepseekV4) {
  const parity::Tensors v = parity::load("deepseek_v4_hyper_head");
  for (const auto& [dtype, relative] : parity::precisions()) {
    HyperHead head(hyper_config(4, 20));
    parity::fill_parameters(*head, v);
    head->to(dtype);
    torch::Tensor hidden = parity::leaf(v.at("hidden"), dtype);
    torch::Tensor output = head(hidden.view({-1, 4, 12})).view(v.at("output").sizes());
    parity::expect_close(output, v.at("output"), relative, "output");
    (output * v.at("loss_weight.output").to(dtype)).sum().backward();
    parity::expect_close(hidden.grad(), v.at("grad.hidden"), relative, "grad.hidden");
    parity::expect_gradients(*head, v, relative);
  }
}

TEST(HyperConnection, StartsAsAPlainResidual) {
  torch::manual_seed(3);
  for (int streams : {2, 4, 8}) {
    HyperConnection hyper(hyper_config(streams, 20), 5);
    torch::Tensor h = torch::randn({6, 12}), output = torch::randn({6, 12});
    torch::Tensor x = h.unsqueeze(1).expand({6, streams, 12}).contiguous();
    const HyperMix mix = hyper->mix(x);
    parity::expect_close(mix.input_Nd, h, 1e-5, "input");
    torch::Tensor merged = HyperConnectionImpl::merge(mix, x, output);
    parity::expect_close(merged, (h + output).unsqueeze(1).expand({6, streams, 12}), 1e-5, "merged");
    parity::expect_close(HyperHead(hyper_config(streams, 20))(x), h, 1e-5, "head");
    torch::Tensor diagonal = hyper_comb(mix.coefficients_NK, streams).diagonal(0, 1, 2);
    EXPECT_GT(diagonal.min().item<double>(), 0.9);
  }
}

// Largest difference between two streams after three steps on a toy problem of two sub-layers.
double spread_after_training(bool lean) {
  torch::manual_seed(4);
  const ModelConfig c = hyper_config(4, 20);
  std::vector<HyperConnection> sub_layers = {HyperConnection(c, 0), HyperConnection(c, 1)};
  std::vector<torch::Tensor> parameters;
  for (HyperConnection& hyper : sub_layers) {
    torch::NoGradGuard no_grad;
    if (!lean) hyper->named_parameters()["base"].narrow(0, 0, 4).fill_(-std::log(3.0));  // pre = 1/4 for all
    for (const auto& p : hyper->parameters()) parameters.push_back(p);
  }
  torch::Tensor h = torch::randn({6, 12}), target = torch::randn({6, 12}), w = torch::randn({12, 12});
  torch::optim::SGD sgd(parameters, torch::optim::SGDOptions(0.1));
  torch::Tensor x;
  for (int step = 0; step < 3; ++step) {
    x = h.unsqueeze(1).expand({6, 4, 12}).contiguous();
    for (HyperConnection& hyper : sub_layers) {
      const HyperMix mix = hyper->mix(x);
      x = HyperConnectionImpl::merge(mix, x, at::linear(mix.input_Nd, w).tanh());
    }
    sgd.zero_grad();
    (x.mean(1) - target).square().sum().backward();
    sgd.step();
  }
  return (x.select(1, 0) - x.select(1, 1)).abs().max().item<double>();
}

// Equal streams with a uniform pre have equal gradients for ever; the lean breaks that.
TEST(HyperConnection, StreamsPartDuringTraining) {
  EXPECT_GT(spread_after_training(true), 2e-5);
  EXPECT_LT(spread_after_training(false), 2e-6);
}

TEST(HyperConnection, MixIsDoublyStochastic) {
  torch::manual_seed(5);
  torch::Tensor x = torch::randn({50, 4, 12});
  const HyperMix mix = hyper_mix(x, torch::randn({24, 48}) * 0.3, torch::randn({24}), torch::ones({3}), {4, 20});
  torch::Tensor comb = hyper_comb(mix.coefficients_NK, 4);
  EXPECT_LT((comb.sum(1) - 1).abs().max().item<double>(), 1e-5);
  EXPECT_LT((comb.sum(2) - 1).abs().max().item<double>(), 1e-2);  // rows lag half a round
}

// The kernels against the plain form in double: forward and every gradient, odd widths and rows past a block.
TEST(HyperConnection, KernelsEqualComposedInDouble) {
  for (const auto& [rows, n, d, iterations] : std::vector<std::tuple<int64_t, int64_t, int64_t, int>>{
           {1, 2, 3, 1}, {70, 4, 16, 20}, {130, 3, 17, 5}, {64, 8, 33, 20}}) {
    torch::manual_seed(static_cast<uint64_t>(rows));
    const int64_t mixes = (2 + n) * n;
    const std::vector<torch::Tensor> inputs = {torch::randn({rows, n, d}), torch::randn({rows, d}),
                                               torch::randn({mixes, n * d}) * 0.2, torch::randn({mixes}),
                                               torch::rand({3}) + 0.5};
    const torch::Tensor weight = torch::randn({rows, n, d}), input_weight = torch::randn({rows, d});
    HyperOptions options{n, iterations, 1e-6, 1e-5};
    std::vector<std::vector<torch::Tensor>> results;
    for (torch::Dtype dtype : {torch::kFloat, torch::kDouble}) {
      std::vector<torch::Tensor> leaves, seen;
      for (const torch::Tensor& x : inputs) leaves.push_back(parity::leaf(x, dtype));
      const HyperMix mix = hyper_mix(leaves[0], leaves[2], leaves[3], leaves[4], options);
      torch::Tensor merged = hyper_merge(mix.coefficients_NK, leaves[0], leaves[1]);
      ((merged * weight.to(dtype)).sum() + (mix.input_Nd * input_weight.to(dtype)).sum()).backward();
      seen = {mix.input_Nd, mix.coefficients_NK, merged};
      for (const torch::Tensor& leaf : leaves) seen.push_back(leaf.grad());
      results.push_back(seen);
    }
    const std::vector<std::string> names = {"input",   "coefficients", "merged", "dx",
                                            "doutput", "dfn",          "dbase",  "dscale"};
    for (size_t i = 0; i < names.size(); ++i)
      parity::expect_close(results[0][i], results[1][i], 2e-5, names[i] + " n " + std::to_string(n));
  }
}

}  // namespace
}  // namespace engram
