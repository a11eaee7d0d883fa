// Activations that are computed again: every number is that of a step that keeps them, and each gradient comes once.
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <gtest/gtest.h>

#include "engram/model/io/lora.h"
#include "engram/model/ops/autocast.h"
#include "engram/model/ops/recompute.h"
#include "tests/model/families.h"

namespace engram {
namespace {

struct Counted : torch::autograd::FunctionPostHook {
  explicit Counted(int64_t* to) : calls(to) {}
  torch::autograd::variable_list operator()(const torch::autograd::variable_list& outputs,
                                            const torch::autograd::variable_list&) override {
    ++*calls;
    return outputs;
  }
  int64_t* calls;
};

// What a step leaves behind.
struct Step {
  torch::Tensor loss;
  std::vector<torch::Tensor> gradients;  // of the trained parameters, then of the rows; undefined: none
  std::vector<int64_t> arrivals;         // of each parameter's gradient
  std::vector<torch::Tensor> loads;
  std::vector<double> gates;
};

Step run_step(Transformer& model, ForwardInput input, Recompute recompute, bool bf16) {
  Step step;
  std::vector<torch::Tensor> leaves;
  for (const torch::Tensor& parameter : model->parameters())
    if (parameter.requires_grad()) leaves.push_back(parameter);
  step.arrivals.resize(leaves.size());
  std::vector<std::shared_ptr<torch::autograd::Node>> accumulators;
  for (size_t i = 0; i < leaves.size(); ++i) {
    accumulators.push_back(torch::autograd::impl::grad_accumulator(leaves[i]));
    accumulators[i]->add_post_hook(std::make_unique<Counted>(&step.arrivals[i]));
  }
  for (MemoryRows& rows : input.memory) {
    rows.unique_rows = rows.unique_rows.detach().requires_grad_();
    leaves.push_back(rows.unique_rows);
  }
  input.recompute = recompute;
  torch::Tensor loss;
  {
    const Autocast autocast(bf16, torch::kCPU);
    loss = model->loss(model->forward(input), shifted_targets(input.tokens));
  }
  loss.backward();
  step.loss = loss.detach();
  for (torch::Tensor& leaf : leaves) {
    step.gradients.push_back(leaf.grad().defined() ? leaf.grad().clone() : torch::Tensor());
    leaf.mutable_grad().reset();
  }
  for (const torch::Tensor& load : model->expert_loads()) step.loads.push_back(load.clone());
  step.gates = model->gate_means();
  model->update_expert_bias(0);
  return step;
}

bool same(const torch::Tensor& a, const torch::Tensor& b) {
  return a.defined() == b.defined() && (!a.defined() || a.equal(b));
}

void expect_same_steps(Transformer& model, const ForwardInput& input, const std::string& name) {
  for (const bool bf16 : {false, true}) {
    const Step kept = run_step(model, input, Recompute::kNone, bf16);
    for (const Recompute recompute : {Recompute::kAttention, Recompute::kBlocks}) {
      SCOPED_TRACE(fmt::format("{}, {}, {}", name, bf16 ? "bf16" : "fp32", static_cast<int>(recompute)));
      const Step again = run_step(model, input, recompute, bf16);
      EXPECT_TRUE(same(kept.loss, again.loss));
      ASSERT_EQ(kept.gradients.size(), again.gradients.size());
      for (size_t i = 0; i < kept.gradients.size(); ++i)
        EXPECT_TRUE(same(kept.gradients[i], again.gradients[i])) << "gradient " << i;
      EXPECT_EQ(kept.arrivals, again.arrivals);
      for (size_t i = 0; i < kept.loads.size(); ++i) EXPECT_TRUE(kept.loads[i].equal(again.loads[i])) << "block " << i;
      EXPECT_EQ(kept.gates, again.gates);
      EXPECT_FALSE(is_recomputing());
    }
  }
}

TEST(Recompute, ChangesNoNumberInAnyFamily) {
  auto all = families();
  all.emplace_back("gqa moe", with_gqa(small_config()));
  all.back().second.qk_norm = all.back().second.qkv_bias = true;
  for (const auto& [name, config] : all) {
    Transformer model = make_model(config);
    ForwardInput input = random_input(config, 3, 16);
    input.starts = {{0, 5}, {}, {9}};
    expect_same_steps(model, input, name);
  }
}

TEST(Recompute, ChangesNoNumberBesideFrozenWeights) {
  for (const bool low_rank : {false, true}) {
    const ModelConfig config = with_engram(with_gqa(small_config()));
    Transformer model = make_model(config);
    for (torch::Tensor& parameter : model->parameters()) parameter.requires_grad_(false);
    if (low_rank) {
      add_lora(*model, {.rank = 2, .alpha = 4, .targets = {"q_proj", "o_proj", "down_proj"}});
      perturb(model);
    }
    for (auto& item : model->named_parameters())
      if (item.key().find("layers.2.engram") != std::string::npos) item.value().requires_grad_();
    ForwardInput input = random_input(config, 2, 16);
    expect_same_steps(model, input, low_rank ? "low rank" : "frozen");
  }
}

// Below the first weight or row that is trained nothing is kept: no backward pass comes there.
TEST(Recompute, BlocksBelowTheFirstTrainedOneKeepNothing) {
  ModelConfig config = with_engram(small_config());
  config.engram.layer_ids = {1};
  Transformer model = make_model(config);
  for (auto& item : model->named_parameters())
    item.value().requires_grad_(item.key().find(".engram.") != std::string::npos);
  const ForwardInput input = random_input(config, 2, 8);
  std::vector<bool> differentiable;
  ForwardTrace trace;
  trace.after_block = [&](int, const torch::Tensor& streams) { differentiable.push_back(streams.requires_grad()); };
  model->forward(input, &trace);
  EXPECT_EQ(differentiable, (std::vector<bool>{false, true, true}));
}

TEST(Recompute, KeepsTheInputsAlone) {
  int runs = 0;
  const torch::Tensor x = torch::randn({8}, torch::requires_grad());
  const auto part = [&](const std::vector<torch::Tensor>& inputs) {
    ++runs;
    EXPECT_EQ(is_recomputing(), runs == 2);
    return inputs[0].sin().exp();
  };
  const torch::Tensor y = recompute(part, {x}, {});
  EXPECT_EQ(runs, 1);
  EXPECT_TRUE(y.equal(x.detach().sin().exp()));
  y.sum().backward();
  EXPECT_EQ(runs, 2);
  EXPECT_TRUE(x.grad().allclose(x.detach().cos() * x.detach().sin().exp()));

  const torch::Tensor still = recompute(part, {x.detach()}, {});
  EXPECT_FALSE(still.requires_grad());
  const auto fails = [&](const std::vector<torch::Tensor>& inputs) {
    TORCH_CHECK(!is_recomputing(), "no second time");
    return inputs[0] * 2;
  };
  const torch::Tensor z = recompute(fails, {x}, {});
  EXPECT_THROW(z.sum().backward(), c10::Error);
  EXPECT_FALSE(is_recomputing());
}

}  // namespace
}  // namespace engram
