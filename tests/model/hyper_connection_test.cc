// Hyper-connections against transformers' deepseek_v4, the doubly stochastic mix, and the start as a plain residual.
#include "engram/model/hyper_connection.h"

#include "parity.h"

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
    const std::map<std::string, torch::Tensor> results = {
        {"collapsed", mix.input_Nd}, {"merged", merged}, {"post", mix.post_Nn}, {"comb", mix.comb_Nnn}};
    torch::Tensor loss = torch::zeros({}, dtype);
    for (const auto& [key, value] : results) {
      torch::Tensor shaped = value.view(v.at(key).sizes());
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
TEST(HyperConnection, TwoStreamsEqualDeepseekV4) {
  expect_connection_parity("deepseek_v4_hyper_connection_n2", 2, 3);
}

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
    torch::Tensor diagonal = mix.comb_Nnn.diagonal(0, 1, 2);
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
  torch::Tensor mixed = torch::randn({50, 24}, torch::kDouble);
  const HyperCoefficients c = hyper_coefficients(mixed, torch::randn({24}, torch::kDouble),
                                                 torch::ones({3}, torch::kDouble), 4, 20, 1e-6);
  EXPECT_LT((c.comb.sum(1) - 1).abs().max().item<double>(), 1e-5);
  EXPECT_LT((c.comb.sum(2) - 1).abs().max().item<double>(), 1e-2);  // rows lag half a round
}

}  // namespace
}  // namespace engram
