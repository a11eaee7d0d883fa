// A decode step of one token did work for many: both matrices of every active expert were transposed into scratch,
// hyper-connections computed 64 columns and transposed their matrix, convolution taps were folded anew. A few tokens
// take their own way through the same weights now, in place: it is held here to the plain form and to the training
// way, for every number of tokens on both sides of its limits.
#include <gtest/gtest.h>

#include "engram/model/layers/engram.h"
#include "engram/model/layers/hyper_connection.h"
#include "engram/model/ops/ops.h"
#include "engram/model/paged/paged_ops.h"

namespace engram {
namespace {

using torch::Tensor;

void expect_close(const Tensor& got, const Tensor& wanted, const std::string& what) {
  ASSERT_EQ(got.sizes(), wanted.sizes()) << what;
  const double error = (got - wanted).abs().max().item<double>();
  EXPECT_LE(error, 1e-5 * (1 + wanted.abs().max().item<double>())) << what;
}

TEST(DecodeWorksForTrainingSizes, ExpertsAreReadInPlace) {
  torch::manual_seed(1);
  for (int64_t tokens : {1, 2, 3, 4, 5, 8, 17, 63, 64, 65}) {
    for (const auto& [dim, width, experts, choices] :
         std::vector<std::array<int64_t, 4>>{{16, 8, 1, 1}, {33, 17, 6, 2}, {64, 50, 5, 4}}) {
      const Tensor x = torch::randn({tokens, dim}), gate_up = torch::randn({experts, 2 * width, dim}) * 0.3;
      const Tensor down = torch::randn({experts, dim, width}) * 0.3, weight = torch::rand({tokens, choices});
      const Tensor index = std::get<1>(torch::rand({tokens, experts}).topk(choices, 1));
      const Tensor same = torch::full({tokens, choices}, experts - 1, torch::kLong);  // more rows than tokens in one
      for (const Tensor& chosen : {index, same}) {
        const std::string what = std::to_string(tokens) + " tokens, " + std::to_string(experts) + " experts";
        const Tensor wanted = moe_experts_plain(x, gate_up, down, chosen, weight);
        const Tensor trained = moe_experts(x, gate_up, down, chosen, weight);
        const c10::InferenceMode inference;
        const Tensor got = moe_experts(x, gate_up, down, chosen, weight);
        expect_close(got, wanted, what);
        expect_close(got, trained, what);
      }
    }
  }
  const c10::InferenceMode inference;
  const Tensor x = torch::randn({1, 4}), weight = torch::ones({1, 1});
  for (int64_t bad : {-1, 2}) {
    EXPECT_THROW(moe_experts(x, torch::randn({2, 6, 4}), torch::randn({2, 4, 3}),
                             torch::full({1, 1}, bad, torch::kLong), weight),
                 c10::Error);
  }
}

// A token's numbers do not depend on who is in the step with it, as long as its expert has few rows.
TEST(DecodeWorksForTrainingSizes, ATokenIsTheSameInAnyBatch) {
  torch::manual_seed(2);
  const c10::InferenceMode inference;
  const Tensor x = torch::randn({4, 40}), gate_up = torch::randn({3, 30, 40}), down = torch::randn({3, 40, 15});
  const Tensor index = torch::tensor({{0, 1}, {2, 0}, {1, 2}, {0, 2}}, torch::kLong), weight = torch::rand({4, 2});
  const Tensor all = moe_experts(x, gate_up, down, index, weight);
  for (int64_t i = 0; i < 4; ++i) {
    const auto one = [&](const Tensor& t) { return t.narrow(0, i, 1).contiguous(); };
    EXPECT_TRUE(torch::equal(moe_experts(one(x), gate_up, down, one(index), one(weight)), one(all))) << i;
  }
}

TEST(DecodeWorksForTrainingSizes, HyperConnectionsOfFewTokens) {
  torch::manual_seed(3);
  for (int64_t streams : {2, 4}) {
    HyperOptions options;
    options.streams = streams;
    const int64_t mixes = (2 + streams) * streams, dim = 19;
    const Tensor fn = torch::randn({mixes, streams * dim}) * 0.2, base = torch::randn({mixes}),
                 scale = torch::rand({3});
    for (int64_t tokens : {1, 3, 4, 5, 16, 63, 64, 65, 130}) {
      const Tensor x = torch::randn({tokens, streams, dim});
      const HyperMix wanted = hyper_mix_plain(x, fn, base, scale, options);
      const c10::InferenceMode inference;
      const HyperMix got = hyper_mix(x, fn, base, scale, options);
      expect_close(got.input_Nd, wanted.input_Nd, std::to_string(tokens) + " tokens");
      expect_close(got.coefficients_NK, wanted.coefficients_NK, std::to_string(tokens) + " tokens");
    }
  }
}

// Folded taps are kept from step to step, and made anew when their weights change in any way.
TEST(DecodeWorksForTrainingSizes, FoldedTapsFollowTheirWeights) {
  torch::manual_seed(4);
  ModelConfig config;
  config.vocab_size = 10;
  config.hidden_size = 12;
  config.memory = MemoryKind::kEngram;
  config.engram.layer_ids = {0};
  config.engram.max_ngram_size = 2;
  config.engram.n_heads = 2;
  config.engram.head_dim = 4;
  Engram module(config, 0);
  module->eval();
  std::map<std::string, Tensor> weights;
  for (const auto& item : module->named_parameters()) weights[item.key()] = item.value();
  const Tensor hidden = torch::randn({3, 1, 12}), memory = torch::randn({3, 8});
  const PagedStep step({{0, 3, {0}, false}}, 4);
  const auto run = [&] {
    const c10::InferenceMode inference;
    Tensor cache = torch::zeros({4, 14});
    return module->step(hidden, memory, step, cache);
  };
  const auto wanted = [&] {
    const c10::InferenceMode inference;
    Tensor cache = torch::zeros({4, 14}), projected = torch::linear(memory, weights.at("wkv.weight"));
    EngramFuseOptions options;
    options.dilation = 2;
    return engram_fuse_paged_plain(hidden, projected, weights.at("query_norm.weight"), weights.at("key_norm.weight"),
                                   weights.at("conv_norm.weight"), weights.at("conv.weight"), step, cache, options)
        .first;
  };
  const torch::NoGradGuard no_grad;
  weights.at("conv.weight").normal_();
  expect_close(run(), wanted(), "at first");
  expect_close(run(), wanted(), "kept");
  weights.at("conv.weight").normal_();
  expect_close(run(), wanted(), "written in place");
  weights.at("conv_norm.weight").set_data(torch::rand({1, 12}));
  expect_close(run(), wanted(), "replaced");
  module->train();
  weights.at("conv.weight").data_ptr<float>()[3] += 2;  // as an optimiser's kernel writes
  module->eval();
  expect_close(run(), wanted(), "trained");
}

}  // namespace
}  // namespace engram
