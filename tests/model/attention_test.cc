// MLA against transformers' deepseek_v3, GQA against llama: forward and every gradient.
#include "engram/model/attention.h"

#include "parity.h"

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
  RotaryCache(rotary_columns(config), config.rope_theta).fill(context, torch::kCPU, dtype);
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

TEST(Attention, GqaEqualsLlama) {
  ModelConfig c = base_config();
  c.attention = AttentionKind::kGqa;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 10;
  expect_parity(c, "llama_gqa");
}

// Values wider than keys: the zero padding then falls on queries and keys.
TEST(Attention, HeadWidthsMayDifferEitherWay) {
  torch::manual_seed(0);
  for (const auto& [key_width, value_width] : std::vector<std::pair<int64_t, int64_t>>{{4, 7}, {7, 4}, {5, 5}}) {
    const int64_t length = 6;
    torch::Tensor q = torch::randn({2, length, 3, key_width}, torch::kDouble);
    torch::Tensor k = torch::randn({2, length, 3, key_width}, torch::kDouble);
    torch::Tensor v = torch::randn({2, length, 3, value_width}, torch::kDouble);
    torch::Tensor score = torch::einsum("bihc,bjhc->bhij", {q, k}) * 0.3;
    score.masked_fill_(torch::ones({length, length}, torch::kBool).triu(1), -INFINITY);
    torch::Tensor expected = torch::einsum("bhij,bjhc->bihc", {score.softmax(-1), v}).reshape({2 * length, -1});
    parity::expect_close(causal_attention(q, k, v, 0.3, {}), expected, 1e-12, "widths");
  }
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

TEST(Attention, DocumentMaskSeesItsOwnDocumentOnly) {
  torch::Tensor mask = document_mask({{0, 2}, {}}, 2, 4);
  ASSERT_EQ(mask.sizes(), (std::vector<int64_t>{2, 1, 4, 4}));
  torch::Tensor expected = torch::tensor({{1, 0, 0, 0}, {1, 1, 0, 0}, {0, 0, 1, 0}, {0, 0, 1, 1}}).to(torch::kBool);
  EXPECT_TRUE(torch::equal(mask[0][0], expected));
  EXPECT_TRUE(torch::equal(mask[1][0], torch::ones({4, 4}, torch::kBool).tril()));
}

}  // namespace
}  // namespace engram
