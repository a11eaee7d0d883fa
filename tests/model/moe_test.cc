// DeepSeekMoE against transformers' deepseek_v3, routing rules, loss-free balancing.
#include "engram/model/layers/moe.h"

#include "tests/model/parity.h"

namespace engram {
namespace {

ModelConfig moe_config() {
  ModelConfig c;
  c.vocab_size = 96;
  c.hidden_size = 32;
  c.moe_intermediate_size = 12;
  c.shared_expert_intermediate_size = 24;
  c.n_routed_experts = 7;
  c.num_experts_per_tok = 3;
  return c;
}

TEST(Moe, EqualsDeepseekV3) {
  const parity::Tensors vectors = parity::load("deepseek_v3_moe");
  for (const auto& [dtype, relative] : parity::precisions()) {
    MoeImpl moe(moe_config());
    parity::fill_parameters(moe, vectors);
    moe.to(dtype);
    torch::Tensor hidden = parity::leaf(vectors.at("hidden"), dtype);
    torch::Tensor output = moe.forward(hidden.view({-1, 32})).view(hidden.sizes());
    parity::expect_close(output, vectors.at("output"), relative, "output");
    (output * vectors.at("loss_weight.output").to(dtype)).sum().backward();
    parity::expect_close(hidden.grad(), vectors.at("grad.hidden"), relative, "grad.hidden");
    parity::expect_gradients(moe, vectors, relative);
  }
}

TEST(Moe, RouteChoosesWhatTheOracleChooses) {
  const parity::Tensors v = parity::load("deepseek_v3_moe");
  torch::Tensor logits = at::linear(v.at("hidden").view({-1, 32}), v.at("param.gate.weight"));
  const Routing routing = route(logits, v.at("param.gate.e_score_correction_bias"), {3, true, 1.0});
  // Neither side promises an order within a row.
  auto [ours, order] = routing.index.sort(-1);
  auto [theirs, their_order] = v.at("topk_index").sort(-1);
  EXPECT_TRUE(torch::equal(ours, theirs));
  parity::expect_close(routing.weight.gather(1, order), v.at("topk_weight").gather(1, their_order), 1e-5, "weight");
}

TEST(Moe, BiasSteersTheChoiceAndNotTheWeight) {
  torch::Tensor logits = torch::tensor({{2.0f, 1.0f, 0.0f, -1.0f}}).requires_grad_();
  const RoutingOptions raw{2, false, 1.0};
  Routing routing = route(logits, torch::tensor({0.0f, -1.0f, 0.0f, 1.0f}), raw);
  auto [index, order] = routing.index.sort(-1);
  EXPECT_TRUE(torch::equal(index, torch::tensor({{int64_t{0}, int64_t{3}}})));
  parity::expect_close(routing.weight.gather(1, order), torch::tensor({{2.0f, -1.0f}}).sigmoid(), 1e-6, "raw");

  routing = route(logits, torch::zeros({4}), {2, true, 2.5});
  EXPECT_NEAR(routing.weight.sum().item<double>(), 2.5, 1e-6);
  routing.weight.select(1, 0).sum().backward();
  EXPECT_EQ(logits.grad()[0][3].item<float>(), 0.0f);  // not chosen, no gradient
  EXPECT_NE(logits.grad()[0][0].item<float>(), 0.0f);
}

TEST(Moe, RouteGradientInDouble) {
  torch::manual_seed(1);
  torch::Tensor logits = torch::randn({5, 6}, torch::kDouble).requires_grad_();
  torch::Tensor bias = torch::randn({6}, torch::kDouble) * 0.1, weight = torch::randn({5, 3}, torch::kDouble);
  const auto loss = [&](const torch::Tensor& x) { return (route(x, bias, {3, true, 1.5}).weight * weight).sum(); };
  loss(logits).backward();
  const double h = 1e-6;
  for (int64_t i = 0; i < logits.numel(); ++i) {
    torch::Tensor plus = logits.detach().clone(), minus = logits.detach().clone();
    plus.view({-1})[i] += h;
    minus.view({-1})[i] -= h;
    const double numeric = (loss(plus) - loss(minus)).item<double>() / (2 * h);
    EXPECT_NEAR(logits.grad().view({-1})[i].item<double>(), numeric, 1e-7);
  }
}

TEST(Moe, BalancingRaisesTheBiasOfIdleExperts) {
  torch::manual_seed(2);
  ModelConfig c = moe_config();
  c.n_routed_experts = 4;
  c.num_experts_per_tok = 1;
  MoeImpl moe(c);
  torch::Tensor x = torch::randn({64, 32});
  EXPECT_EQ(moe.load_ratio(), 0.0);
  moe.eval();
  moe.forward(x);
  EXPECT_EQ(moe.load_ratio(), 0.0);  // evaluation is not counted
  moe.train();
  moe.forward(x);

  torch::Tensor bias = moe.named_buffers()["gate.e_score_correction_bias"];
  torch::Tensor gate = moe.named_parameters()["gate.weight"];
  torch::Tensor load = torch::bincount(at::linear(x, gate).argmax(-1), {}, 4);
  EXPECT_DOUBLE_EQ(moe.load_ratio(), load.max().item<double>() / 16.0);
  moe.update_bias(0.001);
  torch::Tensor expected = (16 - load).sign().to(torch::kFloat) * 0.001;
  EXPECT_TRUE(torch::allclose(bias, expected)) << bias << load;
  EXPECT_EQ(moe.load_ratio(), 0.0);

  const double before = load.max().item<double>() / 16.0;
  for (int step = 0; step < 200; ++step) {
    moe.forward(x);
    moe.update_bias(0.001);
  }
  moe.forward(x);
  EXPECT_LT(moe.load_ratio(), before);
  EXPECT_LT(moe.load_ratio(), 1.3);
}

TEST(Moe, AShareOfTheExpertsIsDrawnAsAllOfThemAre) {
  // One piece, several, several and a rest that is not a multiple of 16, and a tensor of fewer numbers than that.
  for (const std::vector<int64_t>& sizes : {std::vector<int64_t>{7, 24, 32}, {5, 160, 256}, {3, 101, 651}, {3, 1, 5}}) {
    torch::manual_seed(3);
    const torch::Tensor whole = initial_weight(sizes, 0.02), after = torch::randn({20});
    for (const Range rows : {Range{0, 1}, Range{1, 3}, Range{2, 2}, Range{0, sizes[0]}}) {
      torch::manual_seed(3);
      const torch::Tensor share = initial_rows(sizes, 0.02, rows);
      EXPECT_TRUE(torch::equal(share, whole.narrow(0, rows.begin, rows.size())));
      EXPECT_TRUE(torch::equal(torch::randn({20}), after));
    }
  }
}

TEST(Moe, WithoutSharedExpertHasNoSharedParameters) {
  ModelConfig c = moe_config();
  c.shared_expert_intermediate_size = 0;
  MoeImpl moe(c);
  for (const auto& item : moe.named_parameters()) EXPECT_EQ(item.key().find("shared"), std::string::npos);
  EXPECT_EQ(moe.forward(torch::randn({5, 32})).sizes(), (std::vector<int64_t>{5, 32}));
}

}  // namespace
}  // namespace engram
