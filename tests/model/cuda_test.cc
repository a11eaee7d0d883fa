// A GPU against the CPU: operators, a training step, decoding over pages. Skipped without a device.
#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/cuda.h>

#include <numeric>
#include <random>

#include "engram/model/ops/ops.h"
#include "engram/model/paged/paged_ops.h"
#include "tests/model/tiny_checkpoint.h"

namespace engram {
namespace {

class Cuda : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no NVIDIA device";
    torch::manual_seed(7);
  }
};

double relative_error(const torch::Tensor& got, const torch::Tensor& wanted) {
  const torch::Tensor a = got.detach().to(torch::kCPU, torch::kDouble),
                      b = wanted.detach().to(torch::kCPU, torch::kDouble);
  return ((a - b).norm() / b.norm().clamp_min(1e-12)).item<double>();
}

// Sequences that decode and sequences in the middle of their prompts, in shuffled pages of 16 tokens.
PagedStep mixed_step() {
  const std::vector<std::pair<int64_t, int64_t>> sizes = {{0, 1}, {37, 1}, {0, 50}, {100, 33}, {16, 1}, {15, 2}};
  std::vector<int32_t> free(64);
  std::iota(free.begin(), free.end(), 0);
  std::shuffle(free.begin(), free.end(), std::mt19937_64(3));
  std::vector<StepSequence> sequences;
  for (const auto& [position, count] : sizes) {
    StepSequence s{position, count, {}, false};
    for (int64_t page = 0; page * 16 < position + count; ++page) {
      s.blocks.push_back(free.back());
      free.pop_back();
    }
    sequences.push_back(std::move(s));
  }
  return PagedStep(std::move(sequences), 16, torch::kCUDA);
}

void expect_flash_equals_plain(const PagedHeads& heads, int64_t columns) {
  const auto half = torch::TensorOptions().device(torch::kCUDA).dtype(torch::kBFloat16);
  const PagedStep step = mixed_step();
  const torch::Tensor cache = torch::randn({64 * 16, columns}, half);
  const torch::Tensor query = torch::randn({step.num_tokens(), heads.heads * heads.key_width}, half);
  const torch::Tensor got = attend_paged(query, cache, step, heads);
  const torch::Tensor wanted = attend_paged_plain(query.to(torch::kFloat), cache.to(torch::kFloat), step, heads);
  ASSERT_EQ(got.sizes(), wanted.sizes());
  EXPECT_LT(relative_error(got, wanted), 1e-2);
}

TEST_F(Cuda, FlashAttentionOverPagesOfGroupedQueries) {
  PagedHeads heads;
  heads.heads = 8;
  heads.kv_heads = 2;
  heads.key_width = heads.value_width = 64;
  heads.value_at = 128;
  heads.scale = 0.125;
  expect_flash_equals_plain(heads, 256);
}

TEST_F(Cuda, FlashAttentionOverPagesOfLatents) {
  PagedHeads heads;
  heads.heads = 4;
  heads.key_width = 80;
  heads.value_width = 64;
  heads.scale = 0.1;
  expect_flash_equals_plain(heads, 80);
}

// The same forward and backward pass on both devices, in fp32.
TEST_F(Cuda, TrainingStepEqualsTheCpu) {
  for (const AttentionKind attention : {AttentionKind::kMla, AttentionKind::kGqa}) {
    ModelConfig config = tiny_config(tiny_tokenizer());
    config.attention = attention;
    config.num_key_value_heads = 2;
    TinyModel tiny = tiny_model(config);
    TinyModel other = tiny_model(config);
    other.model->to(torch::kCUDA);
    const torch::Tensor tokens = torch::randint(0, config.vocab_size, {3, 16}, torch::kLong);
    const torch::Tensor targets = torch::randint(0, config.vocab_size, {3, 16}, torch::kLong);
    double losses[2];
    std::vector<torch::Tensor> row_gradients[2];
    for (const bool on_gpu : {false, true}) {
      const torch::Device device = on_gpu ? torch::kCUDA : torch::kCPU;
      Transformer model = on_gpu ? other.model : tiny.model;
      ForwardInput input;
      input.tokens = tokens.to(device);
      std::mt19937_64 random(5);
      for (const torch::Tensor& table : tiny.tables) {
        const int64_t rows = std::min<int64_t>(table.size(0), 40);
        std::vector<int64_t> index(static_cast<size_t>(3 * 16 * config.rows_per_token()));
        for (int64_t& id : index) id = static_cast<int64_t>(random() % static_cast<uint64_t>(rows));
        MemoryRows memory{table.narrow(0, 0, rows).clone().to(device).requires_grad_(true),
                          torch::tensor(index, torch::kLong).view({3, 16, -1}).to(device)};
        input.memory.push_back(memory);
      }
      input.starts = {{0, 5}, {}, {0, 9}};
      const torch::Tensor loss = model->loss(model->forward(input), targets.to(device));
      loss.backward();
      losses[on_gpu] = loss.item<double>();
      for (const MemoryRows& memory : input.memory) row_gradients[on_gpu].push_back(memory.unique_rows.grad());
    }
    EXPECT_NEAR(losses[1], losses[0], 1e-4);
    for (size_t i = 0; i < row_gradients[0].size(); ++i) {
      EXPECT_LT(relative_error(row_gradients[1][i], row_gradients[0][i]), 1e-3);
    }
    const auto wanted = tiny.model->named_parameters(), got = other.model->named_parameters();
    for (const auto& entry : wanted) {
      const torch::Tensor& gradient = got[entry.key()].grad();
      ASSERT_EQ(gradient.defined(), entry.value().grad().defined()) << entry.key();
      if (!gradient.defined()) continue;
      EXPECT_LT(relative_error(gradient, entry.value().grad()), 1e-3) << entry.key();
    }
  }
}

// bf16 experts through the grouped product, with gradients, against fp32 on the CPU. Some experts get no token.
TEST_F(Cuda, GroupedExpertsUnderAutocast) {
  const int64_t n = 200, d = 64, f = 48, experts = 9, k = 2;
  const torch::Tensor x = torch::randn({n, d}), gate_up = torch::randn({experts, 2 * f, d}) * 0.1;
  const torch::Tensor down = torch::randn({experts, d, f}) * 0.1, weight = torch::rand({n, k});
  const torch::Tensor index = torch::randint(0, experts - 2, {n, k}, torch::kLong);
  std::vector<torch::Tensor> results[2];
  for (const bool on_gpu : {false, true}) {
    const torch::Device device = on_gpu ? torch::kCUDA : torch::kCPU;
    std::vector<torch::Tensor> inputs;
    for (const torch::Tensor& t : {x, gate_up, down, weight})
      inputs.push_back(t.clone().to(device).requires_grad_(true));
    if (on_gpu) {
      at::autocast::set_autocast_enabled(torch::kCUDA, true);
      at::autocast::set_autocast_dtype(torch::kCUDA, torch::kBFloat16);
    }
    const torch::Tensor y = moe_experts(inputs[0], inputs[1], inputs[2], index.to(device), inputs[3]);
    at::autocast::set_autocast_enabled(torch::kCUDA, false);
    y.square().sum().backward();
    results[on_gpu].push_back(y);
    for (const torch::Tensor& t : inputs) results[on_gpu].push_back(t.grad());
  }
  for (size_t i = 0; i < results[0].size(); ++i) {
    EXPECT_LT(relative_error(results[1][i], results[0][i]), 2e-2) << "result " << i;
  }
}

TEST_F(Cuda, PlaceKeepsRoutingBiasesWhole) {
  TinyModel tiny = tiny_model(tiny_config(tiny_tokenizer()));
  tiny.model->place(torch::kCUDA, torch::kBFloat16);
  for (const torch::Tensor& p : tiny.model->parameters()) EXPECT_EQ(p.scalar_type(), torch::kBFloat16);
  for (const torch::Tensor& b : tiny.model->buffers()) EXPECT_EQ(b.scalar_type(), torch::kFloat);
}

}  // namespace
}  // namespace engram
