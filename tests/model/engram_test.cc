// The memory modules: parity with qwen4_exp's PLE, fused against plain, boundaries, masks, ablations, tables.
#include "engram/model/layers/engram.h"

#include <cmath>

#include "engram/model/layers/over_encoding.h"
#include "engram/model/memory/row_deduplicator.h"
#include "engram/model/ops/ops.h"
#include "tests/model/parity.h"

namespace engram {
namespace {

ModelConfig engram_config(int streams) {
  ModelConfig c;
  c.vocab_size = 64;
  c.hidden_size = 20;
  c.residual = streams > 1 ? ResidualKind::kHyper : ResidualKind::kPlain;
  c.hc_mult = streams;
  c.memory = MemoryKind::kEngram;
  c.engram.layer_ids = {1, 3};
  c.engram.max_ngram_size = 3;
  c.engram.n_heads = 2;
  c.engram.head_dim = 6;
  c.engram.vocab_size = {20, 20};
  c.engram.compressed_vocab_size = 64;
  return c;
}

// Every parameter away from its special start (norms of one, convolution of zero).
void shake(torch::nn::Module& module) {
  torch::NoGradGuard no_grad;
  for (auto& p : module.parameters()) p.add_(torch::randn_like(p) * 0.3);
}

struct Inputs {
  torch::Tensor hidden;
  MemoryRows rows;
};

Inputs random_inputs(const ModelConfig& c, int64_t batch, int64_t length, torch::Dtype dtype = torch::kFloat) {
  const int64_t unique = 9;
  Inputs in;
  in.hidden = torch::randn({batch, length, c.hc_mult, c.hidden_size}, dtype).requires_grad_();
  in.rows.unique_rows = torch::randn({unique, c.engram.head_dim}, dtype).requires_grad_();
  in.rows.index = torch::randint(unique, {batch, length, c.engram.rows_per_token()}, torch::kLong);
  return in;
}

torch::Tensor reach_of(std::vector<int32_t> values) {
  const int64_t length = static_cast<int64_t>(values.size());
  return torch::tensor(values, torch::kInt).view({1, length});
}

// ---- parity ----

void expect_ple_parity(const std::string& name, int64_t streams, int64_t dilation, double eps) {
  const parity::Tensors v = parity::load(name);
  for (const auto& [dtype, relative] : parity::precisions()) {
    auto leaf = [&v, dtype = dtype](const std::string& key) { return v.at(key).to(dtype).clone().requires_grad_(); };
    torch::Tensor hidden = leaf("hidden"), embeddings = leaf("embeddings");
    torch::Tensor key = leaf("param.key_proj.weight"), value = leaf("param.value_proj.weight");
    torch::Tensor query_norm = leaf("param.norm_query.weight"), key_norm = leaf("param.norm_key.weight");
    torch::Tensor conv_norm = leaf("param.norm_conv.weight"), conv = leaf("param.conv1d.weight");
    const int64_t batch = hidden.size(0), length = hidden.size(1), dim = hidden.size(2) / streams;
    auto norm = [&](const torch::Tensor& stored) { return (stored + 1.0).view({streams, dim}); };  // stored as w - 1

    EngramFuseOptions options;
    options.dilation = dilation;
    options.gate_norm_eps = options.conv_norm_eps = eps;
    const torch::Tensor projected = torch::linear(embeddings, torch::cat({key, value}));
    const torch::Tensor y = engram_fuse(hidden.view({batch, length, streams, dim}), projected, norm(query_norm),
                                        norm(key_norm), norm(conv_norm), conv.squeeze(1), {}, options)
                                .first.reshape(hidden.sizes());
    parity::expect_close(y, v.at("output"), relative, "output");
    (y * v.at("loss_weight.output").to(dtype)).sum().backward();
    parity::expect_close(hidden.grad(), v.at("grad.hidden"), relative, "grad.hidden");
    parity::expect_close(embeddings.grad(), v.at("grad.embeddings"), relative, "grad.embeddings");
    parity::expect_close(key.grad(), v.at("grad.key_proj.weight"), relative, "grad.key_proj");
    parity::expect_close(value.grad(), v.at("grad.value_proj.weight"), relative, "grad.value_proj");
    parity::expect_close(query_norm.grad(), v.at("grad.norm_query.weight"), relative, "grad.norm_query");
    parity::expect_close(key_norm.grad(), v.at("grad.norm_key.weight"), relative, "grad.norm_key");
    parity::expect_close(conv_norm.grad(), v.at("grad.norm_conv.weight"), relative, "grad.norm_conv");
    parity::expect_close(conv.grad(), v.at("grad.conv1d.weight"), relative, "grad.conv1d");
  }
}
TEST(EngramParity, FourStreamsEqualQwen4Exp) { expect_ple_parity("qwen4_exp_ple", 4, 3, 1e-6); }
TEST(EngramParity, OneStreamEqualsQwen4Exp) { expect_ple_parity("qwen4_exp_ple_one_stream", 1, 2, 1e-5); }

// ---- the module ----

TEST(Engram, FusedEqualsComposed) {
  torch::manual_seed(1);
  for (int streams : {1, 4}) {
    const ModelConfig c = engram_config(streams);
    EngramImpl module(c, 1);
    shake(module);
    Inputs in = random_inputs(c, 2, 11);
    const torch::Tensor reach =
        torch::cat({reach_of({0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6}), reach_of({0, 1, -1, 0, 1, 2, 3, 4, -1, -1, 0})});
    torch::Tensor gates;
    torch::Tensor y = module.forward(in.hidden, in.rows, reach, &gates);
    torch::Tensor weight = torch::randn_like(y);
    (y * weight).sum().backward();

    std::map<std::string, torch::Tensor> wide;
    for (const auto& item : module.named_parameters()) {
      wide[item.key()] = item.value().detach().to(torch::kDouble).requires_grad_();
    }
    torch::Tensor hidden = in.hidden.detach().to(torch::kDouble).requires_grad_();
    torch::Tensor rows = in.rows.unique_rows.detach().to(torch::kDouble).requires_grad_();
    EngramFuseOptions options;
    auto [expected, expected_gates] = engram_fuse_plain(
        hidden, torch::linear(gather_rows_plain(rows, in.rows.index), wide["wkv.weight"]), wide["query_norm.weight"],
        wide["key_norm.weight"], wide["conv_norm.weight"], wide["conv.weight"], reach, options);
    (expected * weight.to(torch::kDouble)).sum().backward();
    parity::expect_close(y, expected, 1e-5, "Y");
    parity::expect_close(gates, expected_gates, 1e-5, "gates");
    // Gradients pass the slope of sqrt|s|, which magnifies fp32 rounding of the score s by 1 / (2|s|); the gate is
    // sigmoid(sign(s) sqrt|s|), so its logit squared is |s|. golden_module allows for it in the same way.
    const torch::Tensor seen = (reach >= 0).unsqueeze(-1).expand_as(expected_gates);
    const double least = expected_gates.logit().pow(2).masked_select(seen).min().item<double>();
    ASSERT_GT(least, 1e-4);
    const double limit = 1e-5 + 1e-6 / (2 * least);
    parity::expect_close(in.hidden.grad(), hidden.grad(), limit, "grad of hidden");
    parity::expect_close(in.rows.unique_rows.grad(), rows.grad(), limit, "grad of rows");
    for (const auto& item : module.named_parameters()) {
      parity::expect_close(item.value().grad(), wide[item.key()].grad(), limit, "grad of " + item.key());
    }
  }
}

// Central differences in double: the backward pass of the whole module.
TEST(Engram, GradientsEqualDifferences) {
  torch::manual_seed(2);
  const ModelConfig c = engram_config(2);
  EngramImpl module(c, 0);
  module.to(torch::kDouble);
  shake(module);
  Inputs in = random_inputs(c, 1, 6, torch::kDouble);
  const torch::Tensor reach = reach_of({0, 1, 2, -1, 0, 1});
  const torch::Tensor weight = torch::randn({1, 6, 2, c.hidden_size}, torch::kDouble);
  auto loss = [&] { return (module.forward(in.hidden, in.rows, reach) * weight).sum(); };
  loss().backward();
  std::vector<torch::Tensor> leaves = module.parameters();
  leaves.push_back(in.hidden);
  leaves.push_back(in.rows.unique_rows);
  torch::NoGradGuard no_grad;
  for (torch::Tensor& leaf : leaves) {
    torch::Tensor flat = leaf.view({-1}), grad = leaf.grad().view({-1});
    for (int64_t i : {int64_t{0}, flat.numel() / 2, flat.numel() - 1}) {
      const double x = flat[i].item<double>(), h = 1e-6;
      flat[i] = x + h;
      const double up = loss().item<double>();
      flat[i] = x - h;
      const double down = loss().item<double>();
      flat[i] = x;
      EXPECT_NEAR(grad[i].item<double>(), (up - down) / (2 * h), 1e-6 * (1 + std::abs(up)));
    }
  }
}

TEST(Engram, StartsAsGatedValue) {
  torch::manual_seed(3);
  const ModelConfig c = engram_config(4);
  EngramImpl module(c, 0);
  Inputs in = random_inputs(c, 2, 7);
  torch::Tensor gates;
  const torch::Tensor y = module.forward(in.hidden, in.rows, {}, &gates);
  const torch::Tensor memory = gather_rows_plain(in.rows.unique_rows, in.rows.index);
  const torch::Tensor value = torch::linear(memory, module.named_parameters()["wkv.weight"].narrow(0, 80, 20));
  parity::expect_close(y, gates.unsqueeze(-1) * value.unsqueeze(2), 1e-5, "Y = alpha * value");
  EXPECT_EQ(gates.sizes(), (std::vector<int64_t>{2, 7, 4}));
  EXPECT_FALSE(gates.requires_grad());
  EXPECT_NEAR(module.gate_mean(), gates.mean().item<double>(), 1e-6);
  module.eval();
  module.forward(in.hidden * 2, in.rows, {});
  EXPECT_NEAR(module.gate_mean(), gates.mean().item<double>(), 1e-6);  // evaluation leaves it
}

TEST(Engram, DocumentsDoNotSeeEachOther) {
  torch::manual_seed(4);
  const ModelConfig c = engram_config(2);
  EngramImpl module(c, 0);
  shake(module);
  torch::NoGradGuard no_grad;
  Inputs in = random_inputs(c, 1, 12);
  const torch::Tensor reach = reach_of({0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6});
  const torch::Tensor before = module.forward(in.hidden, in.rows, reach);
  in.hidden.narrow(1, 0, 5).normal_();
  in.rows.index.narrow(1, 0, 5).random_(0, 9);
  const torch::Tensor after = module.forward(in.hidden, in.rows, reach);
  EXPECT_TRUE(torch::equal(before.narrow(1, 5, 7), after.narrow(1, 5, 7)));
  EXPECT_FALSE(torch::equal(before.narrow(1, 0, 5), after.narrow(1, 0, 5)));
  // Without the boundary the convolution does look back: the test can fail.
  const torch::Tensor open = module.forward(in.hidden, in.rows, {});
  EXPECT_FALSE(torch::equal(after.narrow(1, 5, 7), open.narrow(1, 5, 7)));
}

TEST(Engram, MaskedPositionsAddNothingAndAreNotSeen) {
  torch::manual_seed(5);
  const ModelConfig c = engram_config(2);
  EngramImpl module(c, 0);
  shake(module);
  torch::NoGradGuard no_grad;
  Inputs in = random_inputs(c, 1, 10);
  const torch::Tensor reach = reach_of({0, 1, 2, -1, 0, 1, 2, 3, 4, 5});
  torch::Tensor gates;
  const torch::Tensor before = module.forward(in.hidden, in.rows, reach, &gates);
  EXPECT_EQ(before.select(1, 3).abs().max().item<float>(), 0.0f);
  EXPECT_EQ(gates.select(1, 3).abs().max().item<float>(), 0.0f);
  in.hidden.select(1, 3).normal_();
  in.rows.index.select(1, 3).random_(0, 9);
  EXPECT_TRUE(torch::equal(before, module.forward(in.hidden, in.rows, reach)));
}

TEST(Engram, Ablations) {
  torch::manual_seed(6);
  ModelConfig c = engram_config(4);
  Inputs in = random_inputs(c, 1, 8);
  torch::NoGradGuard no_grad;
  torch::Tensor gates;

  c.engram_gate = false;
  EngramImpl ungated(c, 0);
  ungated.forward(in.hidden, in.rows, {}, &gates);
  EXPECT_TRUE(torch::equal(gates, torch::ones_like(gates)));

  c = engram_config(4);
  c.engram_conv = false;
  EngramImpl no_conv(c, 0);
  shake(no_conv);
  EXPECT_FALSE(no_conv.named_parameters().contains("conv.weight"));
  const torch::Tensor y = no_conv.forward(in.hidden, in.rows, {}, &gates);
  const torch::Tensor memory = gather_rows_plain(in.rows.unique_rows, in.rows.index);
  const torch::Tensor value = torch::linear(memory, no_conv.named_parameters()["wkv.weight"].narrow(0, 80, 20));
  parity::expect_close(y, gates.unsqueeze(-1) * value.unsqueeze(2), 1e-5, "Y = v");

  c = engram_config(4);
  c.engram_branch_gates = false;
  EngramImpl single(c, 0);
  shake(single);
  EXPECT_EQ(single.named_parameters()["wkv.weight"].size(0), 2 * c.hidden_size);
  const torch::Tensor one = single.forward(in.hidden.narrow(2, 0, 1), in.rows, {}, &gates);
  EXPECT_EQ(gates.sizes(), (std::vector<int64_t>{1, 8, 1}));
  EXPECT_EQ(one.sizes(), (std::vector<int64_t>{1, 8, 1, c.hidden_size}));
  EXPECT_THROW(single.forward(in.hidden, in.rows, {}), c10::Error);
}

TEST(Engram, RefusesRowsOfAnotherShape) {
  const ModelConfig c = engram_config(2);
  EngramImpl module(c, 0);
  Inputs in = random_inputs(c, 1, 8);
  EXPECT_THROW(module.forward(in.hidden.narrow(1, 0, 7), in.rows, {}), c10::Error);
  in.rows.unique_rows = torch::zeros({9, 5});
  EXPECT_THROW(module.forward(in.hidden, in.rows, {}), c10::Error);
}

// ---- over-encoding ----

// The formula of arXiv 2501.16975 with plain loops: a W_ij per order and head, all averaged with the embedding.
TEST(OverEncoding, AveragesProjectedRows) {
  torch::manual_seed(7);
  ModelConfig c = engram_config(1);
  c.memory = MemoryKind::kOverEncoding;
  c.engram.layer_ids = {0};
  OverEncodingImpl module(c);
  shake(module);
  torch::NoGradGuard no_grad;
  Inputs in = random_inputs(c, 2, 5);
  const torch::Tensor embedding = in.hidden.squeeze(2), got = module.forward(embedding, in.rows);
  const torch::Tensor weight = module.named_parameters()["proj.weight"];
  const int64_t rows = c.engram.rows_per_token(), width = c.engram.head_dim;
  torch::Tensor expected = embedding.clone();
  for (int64_t r = 0; r < rows; ++r) {
    const torch::Tensor e = in.rows.unique_rows.index_select(0, in.rows.index.select(2, r).flatten());
    expected += e.mm(weight.narrow(1, r * width, width).t()).view(expected.sizes());
  }
  parity::expect_close(got, expected / (1.0 + static_cast<double>(rows)), 1e-5, "OE(x)");
  parity::expect_close(module.forward(embedding, {}), embedding / (1.0 + static_cast<double>(rows)), 1e-6, "off");
}

// ---- tables ----

TEST(RowDeduplicator, FirstSeenOrderAndReuse) {
  RowDeduplicator dedup(10);
  std::vector<int64_t> unique, index;
  const std::vector<int64_t> ids = {7, 3, 7, 0, 3, 9};
  dedup.run(ids, unique, index);
  EXPECT_EQ(unique, (std::vector<int64_t>{7, 3, 0, 9}));
  EXPECT_EQ(index, (std::vector<int64_t>{0, 1, 0, 2, 1, 3}));
  for (int64_t bad : {int64_t{10}, int64_t{-1}}) {
    const std::vector<int64_t> wrong = {1, 2, bad};
    EXPECT_THROW(dedup.run(wrong, unique, index), c10::Error);
  }
  const std::vector<int64_t> again = {2, 1, 2};  // an error leaves no stamp behind
  dedup.run(again, unique, index);
  EXPECT_EQ(unique, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(index, (std::vector<int64_t>{0, 1, 0}));
}

TEST(ResidentTable, IsReadInPlace) {
  const torch::Tensor rows = torch::randn({10, 4});
  ResidentTable table(rows);
  const std::vector<int64_t> ids = {5, 1, 5, 5, 1, 9};
  const MemoryRows memory = table.gather(ids, 1, 3);
  EXPECT_EQ(memory.unique_rows.const_data_ptr(), rows.const_data_ptr());
  EXPECT_EQ(memory.index.sizes(), (std::vector<int64_t>{1, 3, 2}));
  const torch::Tensor expected = rows.index_select(0, torch::tensor(ids)).view({1, 3, 8});
  EXPECT_TRUE(torch::equal(gather_rows(memory.unique_rows, memory.index), expected));
  ResidentTable narrow(rows.to(torch::kBFloat16));
  const MemoryRows widened = narrow.gather(ids, 1, 3);
  EXPECT_TRUE(torch::equal(widened.in_order().view({1, 3, 8}), expected.to(torch::kBFloat16).to(torch::kFloat)));
  EXPECT_THROW(table.gather(std::vector<int64_t>{0, 10}, 1, 1), c10::Error);
  EXPECT_THROW(table.gather(std::vector<int64_t>{0, 1, 2}, 1, 2), c10::Error);
}

}  // namespace
}  // namespace engram
