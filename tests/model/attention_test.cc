// MLA against transformers' deepseek_v3, GQA against llama: forward and every gradient.
#include "engram/model/layers/attention.h"

#include <torch/utils.h>

#include "tests/model/parity.h"

namespace engram {
namespace {

ModelConfig base_config() {
  ModelConfig c;
  c.vocab_size = 96;
  c.hidden_size = 32;
  return c;
}

AttentionContext context_for(const ModelConfig& config, int64_t batch, int64_t length, torch::Dtype dtype) {
  AttentionContext context;
  context.batch = batch;
  context.length = length;
  RotaryCache(rotary_columns(config), config.rope_theta, config.rope_scaling, config.max_position_embeddings)
      .fill(context, torch::kCPU, dtype);
  return context;
}

void expect_parity(const ModelConfig& config, const std::string& name) {
  const parity::Tensors vectors = parity::load(name);
  for (const auto& [dtype, relative] : parity::precisions()) {
    auto attention = make_attention(config);
    parity::fill_parameters(*attention, vectors);
    attention->to(dtype);
    torch::Tensor hidden = parity::leaf(vectors.at("hidden"), dtype);
    const int64_t batch = hidden.size(0), length = hidden.size(1);
    torch::Tensor output =
        attention->forward(hidden.view({batch * length, -1}), context_for(config, batch, length, dtype));
    parity::expect_close(output.view(hidden.sizes()), vectors.at("output"), relative, name);
    (output.view(hidden.sizes()) * vectors.at("loss_weight.output").to(dtype)).sum().backward();
    parity::expect_close(hidden.grad(), vectors.at("grad.hidden"), relative, "grad.hidden");
    parity::expect_gradients(*attention, vectors, relative);
  }
}

ModelConfig mla_config() {
  ModelConfig c = base_config();
  c.num_attention_heads = 3;
  c.kv_lora_rank = 20;
  c.qk_nope_head_dim = 10;
  c.qk_rope_head_dim = 6;
  c.v_head_dim = 8;
  return c;
}

TEST(Attention, MlaEqualsDeepseekV3) { expect_parity(mla_config(), "deepseek_v3_mla"); }

TEST(Attention, MlaWithQueryLoraEqualsDeepseekV3) {
  ModelConfig c = mla_config();
  c.q_lora_rank = 14;
  expect_parity(c, "deepseek_v3_mla_q_lora");
}

TEST(Attention, MlaUnderYarnEqualsDeepseekV3) {
  ModelConfig c = mla_config();
  c.qk_rope_head_dim = 12;
  c.max_position_embeddings = 8000;
  c.rope_scaling = {.factor = 4, .original_max_position_embeddings = 2000, .mscale = 1.0, .mscale_all_dim = 0.707};
  expect_parity(c, "deepseek_v3_mla_yarn");
}

TEST(Attention, GqaEqualsLlama) {
  ModelConfig c = base_config();
  c.attention = AttentionKind::kGqa;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 10;
  expect_parity(c, "llama_gqa");
}

AttentionHeads random_heads(int64_t seed) {
  // Odd widths, groups, and values wider or narrower than keys.
  const std::vector<AttentionHeads> all = {
      {.heads = 4, .kv_heads = 4, .nope = 16, .rope = 8, .value = 16, .interleaved = true, .shared_rope_key = true},
      {.heads = 3, .kv_heads = 3, .nope = 5, .rope = 6, .value = 17, .interleaved = true, .shared_rope_key = true},
      {.heads = 6, .kv_heads = 2, .nope = 0, .rope = 10, .value = 10, .interleaved = false, .shared_rope_key = false},
      {.heads = 2, .kv_heads = 1, .nope = 3, .rope = 4, .value = 40, .interleaved = false, .shared_rope_key = false}};
  return all[static_cast<size_t>(seed) % all.size()];
}

struct AttendCase {
  AttentionHeads heads;
  AttentionContext context;
  torch::Tensor query, key_value, key_rope;
};

AttendCase random_case(int64_t seed, int64_t length, bool documents) {
  torch::manual_seed(static_cast<uint64_t>(seed));
  AttendCase c;
  c.heads = random_heads(seed);
  const AttentionHeads& h = c.heads;
  c.context.batch = 2;
  c.context.length = length;
  RotaryCache(h.rope, 100.0).fill(c.context, torch::kCPU, torch::kFloat);
  if (documents) {
    const int32_t middle = static_cast<int32_t>(length / 2), third = static_cast<int32_t>(length / 3);
    c.context.first_key = document_first_keys({{0, 1, middle}, {third}}, 2, length);
  }
  const int64_t n = 2 * length;
  // Slices of a wider product, as MLA hands them over.
  c.query = torch::randn({n, h.heads * (h.nope + h.rope) + 5}).narrow(1, 2, h.heads * (h.nope + h.rope));
  c.key_value = torch::randn({n, h.kv_heads * (h.nope + h.value)});
  const int64_t rotated = (h.shared_rope_key ? 1 : h.kv_heads) * h.rope;
  c.key_rope = torch::randn({n, rotated + 1}).narrow(1, 1, rotated);
  return c;
}

// The kernel against the plain form in double, forward and gradients, over tile edges (64 queries, 256 keys).
TEST(Attention, KernelEqualsComposedInDouble) {
  for (int64_t seed = 0; seed < 16; ++seed) {
    const int64_t length = std::vector<int64_t>{1, 3, 64, 65, 130, 300}[static_cast<size_t>(seed) % 6];
    const AttendCase c = random_case(seed, std::max<int64_t>(length, seed % 2 == 0 ? 4 : 1), seed % 2 == 0);
    torch::Tensor weight;
    std::vector<std::vector<torch::Tensor>> results;
    for (torch::Dtype dtype : {torch::kFloat, torch::kDouble}) {
      AttentionContext context = c.context;
      context.cos = context.cos.to(dtype);
      context.sin = context.sin.to(dtype);
      std::vector<torch::Tensor> leaves;
      for (const torch::Tensor& x : {c.query, c.key_value, c.key_rope}) leaves.push_back(parity::leaf(x, dtype));
      torch::Tensor out = attend(leaves[0], leaves[1], leaves[2], context, c.heads);
      if (!weight.defined()) weight = torch::randn_like(out);
      out.backward(weight.to(dtype));
      results.push_back({out, leaves[0].grad(), leaves[1].grad(), leaves[2].grad()});
    }
    const std::vector<std::string> names = {"output", "grad.query", "grad.key_value", "grad.key_rope"};
    for (size_t i = 0; i < names.size(); ++i)
      parity::expect_close(results[0][i], results[1][i], 2e-5, names[i] + " of case " + std::to_string(seed));
  }
}

TEST(Attention, KernelReadsSlicesInPlace) {
  const AttendCase c = random_case(4, 70, false);
  torch::Tensor sliced = attend(c.query, c.key_value, c.key_rope, c.context, c.heads);
  torch::Tensor copied = attend(c.query.contiguous(), c.key_value, c.key_rope.contiguous(), c.context, c.heads);
  EXPECT_TRUE(torch::equal(sliced, copied));
}

// Sums run in an order that does not depend on the number of threads.
TEST(Attention, KernelIsIndependentOfThreads) {
  const AttendCase c = random_case(8, 300, false);
  std::vector<torch::Tensor> results;
  for (int threads : {1, 2, 5}) {
    const int before = at::get_num_threads();
    at::set_num_threads(threads);
    torch::Tensor query = parity::leaf(c.query, torch::kFloat), key_rope = parity::leaf(c.key_rope, torch::kFloat);
    torch::Tensor out = attend(query, c.key_value, key_rope, c.context, c.heads);
    out.square().sum().backward();
    at::set_num_threads(before);
    results.push_back(torch::cat({out.flatten(), query.grad().flatten(), key_rope.grad().flatten()}).detach());
  }
  EXPECT_TRUE(torch::equal(results[0], results[1]));
  EXPECT_TRUE(torch::equal(results[0], results[2]));
}

TEST(Attention, RotaryCacheGrowsAndKeepsItsValues) {
  const ModelConfig c = mla_config();
  RotaryCache cache(6, 10000.0);
  AttentionContext small, large;
  small.length = 3;
  large.length = 40;
  cache.fill(small, torch::kCPU, torch::kFloat);
  cache.fill(large, torch::kCPU, torch::kFloat);
  EXPECT_EQ(large.cos.sizes(), (std::vector<int64_t>{40, 3}));
  EXPECT_TRUE(torch::equal(small.sin, large.sin.narrow(0, 0, 3)));
  // Pair i turns by position * theta^(-2i / columns).
  EXPECT_NEAR(large.sin[39][1].item<double>(), std::sin(39 * std::pow(10000.0, -2.0 / 6)), 1e-5);
}

TEST(Attention, FirstKeysAreTheDocumentsStarts) {
  torch::Tensor first = document_first_keys({{0, 2}, {}}, 2, 4);
  EXPECT_TRUE(torch::equal(first, torch::tensor({{0, 0, 2, 2}, {0, 0, 0, 0}}, torch::kInt)));
}

}  // namespace
}  // namespace engram
