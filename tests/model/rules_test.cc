// The rules of raw ids as configurations of the memory, from token ids on: forward, gradients and steps against vectors
// of transformers' Qwen4Exp and of LongCat's definition (tests/golden/make/qwen4_exp.py, longcat.py).
#include <gtest/gtest.h>

#include <functional>

#include "engram/hash/memory_hasher.h"
#include "engram/model/layers/engram.h"
#include "engram/model/layers/over_encoding.h"
#include "tests/model/parity.h"
#include "tests/model/rules.h"

namespace engram {
namespace {

constexpr int64_t kHidden = 16, kWidth = 6, kTables = 4, kBlockSize = 4;

ModelConfig rule_config(HashRule rule, bool average_word = true) {
  ModelConfig c;
  c.vocab_size = 50;
  c.hidden_size = kHidden;
  if (rule == HashRule::kQwen4Exp) {
    c.residual = ResidualKind::kHyper;
    c.hc_mult = 4;
  }
  c.engram.layer_ids = {1, 3};
  c.engram.n_heads = 2;
  c.engram.head_dim = kWidth;
  c.engram.seed = 1234;
  return with_rule(c, rule, average_word);
}

MemoryHasher hasher_of(const ModelConfig& c) {
  EXPECT_TRUE(c.validate().ok()) << c.validate().message();
  const TokenMap map = TokenMap::identity(c.vocab_size);
  return value_or_throw(MemoryHasher::create(value_or_throw(EngramLayout::create(c.engram, map)), map));
}

std::vector<int32_t> text_of(const torch::Tensor& tokens, int64_t b, int64_t begin, int64_t count) {
  std::vector<int32_t> out;
  for (int64_t t = begin; t < begin + count; ++t) out.push_back(static_cast<int32_t>(tokens[b][t].item<int64_t>()));
  return out;
}

// [B, T, R] of the last memory layer.
torch::Tensor row_ids(const MemoryHasher& hasher, const torch::Tensor& tokens) {
  std::vector<torch::Tensor> all;
  for (int64_t b = 0; b < tokens.size(0); ++b) {
    const RowIds ids = value_or_throw(hasher.hash(text_of(tokens, b, 0, tokens.size(1))));
    const auto last = ids.layer(hasher.num_layers() - 1);
    all.push_back(torch::tensor(std::vector<int64_t>(last.begin(), last.end())).view({tokens.size(1), kTables}));
  }
  return torch::stack(all);
}

// As the model counts it: -1 at a masked position, after which a text begins.
torch::Tensor reach_of(const torch::Tensor& tokens) {
  torch::Tensor reach = torch::empty(tokens.sizes(), torch::kInt);
  for (int64_t b = 0; b < tokens.size(0); ++b) {
    int visible = 0;
    for (int64_t t = 0; t < tokens.size(1); ++t) {
      const bool masked = tokens[b][t].item<int64_t>() < 0;
      reach[b][t] = masked ? -1 : visible;
      visible = masked ? 0 : visible + 1;
    }
  }
  return reach;
}

// All heads' tensors of a name as one, along a dimension.
torch::Tensor joined(const parity::Tensors& v, const std::string& prefix, const std::string& name, int64_t dim) {
  std::vector<torch::Tensor> parts;
  for (int i = 0; i < kTables; ++i) parts.push_back(v.at(fmt::format("{}{}.{}.weight", prefix, name, i)));
  return torch::cat(parts, dim);
}

void fill(torch::nn::Module& module, const std::string& name, const torch::Tensor& value) {
  const torch::NoGradGuard no_grad;
  torch::Tensor parameter = module.named_parameters()[name];
  parameter.copy_(value.view(parameter.sizes()));
}

// Calls step(tokens' begin and count, PagedStep, rows [N, R r] of both sequences) for parts of the given lengths.
void in_steps(const MemoryHasher& hasher, const torch::Tensor& tokens, const torch::Tensor& table,
              const std::vector<int64_t>& lengths,
              const std::function<void(int64_t, int64_t, const PagedStep&, const torch::Tensor&)>& step) {
  std::vector<NgramContext> contexts(2, hasher.new_context());
  const std::vector<std::vector<int32_t>> blocks = {{5, 0, 3, 9, 2, 11}, {1, 4, 6, 10, 7, 8}};
  int64_t begin = 0;
  for (const int64_t count : lengths) {
    std::vector<StepSequence> sequences;
    std::vector<int64_t> ids;
    for (size_t b = 0; b < 2; ++b) {
      throw_if_error(contexts[b].append(text_of(tokens, static_cast<int64_t>(b), begin, count)));
      RowIds rows;
      hasher.hash(contexts[b], count, rows);
      const auto last = rows.layer(hasher.num_layers() - 1);
      ids.insert(ids.end(), last.begin(), last.end());
      sequences.push_back({begin, count, blocks[b], false});
    }
    const torch::InferenceMode inference;
    const torch::Tensor rows = table.index_select(0, torch::tensor(ids)).view({2 * count, kTables * kWidth});
    step(begin, count, PagedStep(sequences, kBlockSize), rows);
    begin += count;
  }
  ASSERT_EQ(begin, tokens.size(1));
}

std::vector<std::vector<int64_t>> splits(int64_t length) {
  return {{length}, std::vector<int64_t>(static_cast<size_t>(length), 1), {2, 7, 1, 1, length - 11}};
}

// ---- qwen4exp ----

const char* const kTable = "ple_embedding.ngram_embedding.weight";
const std::vector<std::pair<const char*, const char*>> kQwenNames = {{"query_norm.weight", "norm_query.weight"},
                                                                     {"key_norm.weight", "norm_key.weight"},
                                                                     {"conv_norm.weight", "norm_conv.weight"},
                                                                     {"conv.weight", "conv1d.weight"}};

torch::Tensor keys_and_value(const parity::Tensors& v, const std::string& prefix) {
  return torch::cat({v.at(prefix + "key_proj.weight"), v.at(prefix + "value_proj.weight")});
}

void fill_qwen(EngramImpl& module, const parity::Tensors& v) {
  fill(module, "wkv.weight", keys_and_value(v, "param."));
  for (const auto& [ours, theirs] : kQwenNames) fill(module, ours, v.at(std::string("param.") + theirs));
}

TEST(Qwen4Exp, LayerFromTokensEqualsTransformers) {
  const parity::Tensors v = parity::load("qwen4_exp_memory");
  const ModelConfig c = rule_config(HashRule::kQwen4Exp);
  const MemoryHasher hasher = hasher_of(c);
  const torch::Tensor& tokens = v.at("tokens");  // with texts that end, and padding at the left
  for (const auto& [dtype, relative] : parity::precisions()) {
    EngramImpl module(c, 1);
    module.to(dtype);
    fill_qwen(module, v);
    torch::Tensor hidden = parity::leaf(v.at("hidden"), dtype);
    torch::Tensor table = parity::leaf(v.at(std::string("param.") + kTable), dtype);
    ASSERT_EQ(table.size(0), hasher.layer(1).num_rows());
    const torch::Tensor y =
        module.forward(hidden.view({2, tokens.size(1), 4, kHidden}), {table, row_ids(hasher, tokens)}, reach_of(tokens))
            .reshape(hidden.sizes());
    parity::expect_close(y, v.at("output"), relative, "output");
    (y * v.at("loss_weight.output").to(dtype)).sum().backward();
    parity::expect_close(hidden.grad(), v.at("grad.hidden"), relative, "grad.hidden");
    parity::expect_close(table.grad(), v.at(std::string("grad.") + kTable), relative, "grad of rows");
    auto parameters = module.named_parameters();
    parity::expect_close(parameters["wkv.weight"].grad(), keys_and_value(v, "grad."), relative, "grad of projections");
    for (const auto& [ours, theirs] : kQwenNames) {
      const torch::Tensor& wanted = v.at(std::string("grad.") + theirs);
      parity::expect_close(parameters[ours].grad(), wanted.view(parameters[ours].sizes()), relative, ours);
    }
  }
}

TEST(Qwen4Exp, StepsEqualTransformersOverItsCache) {
  const parity::Tensors v = parity::load("qwen4_exp_memory");
  const ModelConfig c = rule_config(HashRule::kQwen4Exp);
  const MemoryHasher hasher = hasher_of(c);
  const torch::Tensor &tokens = v.at("open_tokens"), table = v.at(std::string("param.") + kTable);
  const torch::Tensor hidden = v.at("hidden").view({2, tokens.size(1), 4, kHidden}),
                      wanted = v.at("open_output").view(hidden.sizes());
  EngramImpl module(c, 1);
  fill_qwen(module, v);
  module.eval();
  for (const auto& lengths : splits(tokens.size(1))) {
    torch::Tensor cache = torch::zeros({12 * kBlockSize, memory_row_width(c)});
    in_steps(hasher, tokens, table, lengths,
             [&](int64_t begin, int64_t count, const PagedStep& step, const auto& rows) {
               const torch::Tensor part = hidden.narrow(1, begin, count).reshape({2 * count, 4, kHidden});
               const torch::Tensor y = module.step(part, rows, step, cache);
               parity::expect_close(y, wanted.narrow(1, begin, count).reshape(y.sizes()), 2e-5,
                                    fmt::format("from {}", begin));
             });
  }
}

// Weights start as those of the package: norms of one, kept as zero, and Y = the gated value.
TEST(Qwen4Exp, StartsWithNormsOfOne) {
  const EngramImpl module(rule_config(HashRule::kQwen4Exp), 0);
  for (const char* name : {"query_norm.weight", "key_norm.weight", "conv_norm.weight", "conv.weight"})
    EXPECT_EQ(module.named_parameters()[name].abs().max().item<float>(), 0.0f) << name;
}

// ---- longcat ----

class Longcat : public ::testing::TestWithParam<bool> {
 protected:
  const parity::Tensors v_ = parity::load(GetParam() ? "longcat_memory_lite" : "longcat_memory_2");
  const ModelConfig config_ = rule_config(HashRule::kLongcat, GetParam());
  const MemoryHasher hasher_ = hasher_of(config_);
  const torch::Tensor tokens_ = v_.at("tokens");
};
INSTANTIATE_TEST_SUITE_P(AverageWord, Longcat, ::testing::Bool());

TEST_P(Longcat, MemoryFromTokensEqualsTheDefinition) {
  for (const auto& [dtype, relative] : parity::precisions()) {
    OverEncodingImpl module(config_);
    module.to(dtype);
    fill(module, "proj.weight", joined(v_, "param.", "projections", 1));
    torch::Tensor word = parity::leaf(v_.at("word"), dtype);
    torch::Tensor table = parity::leaf(joined(v_, "param.", "embedders", 0), dtype);
    ASSERT_EQ(table.size(0), hasher_.layer(0).num_rows());
    const torch::Tensor y = module.forward(word, {table, row_ids(hasher_, tokens_)});
    parity::expect_close(y, v_.at("output"), relative, "output");
    (y * v_.at("loss_weight.output").to(dtype)).sum().backward();
    parity::expect_close(word.grad(), v_.at("grad.word"), relative, "grad.word");
    parity::expect_close(table.grad(), joined(v_, "grad.", "embedders", 0), relative, "grad of rows");
    parity::expect_close(module.named_parameters()["proj.weight"].grad(), joined(v_, "grad.", "projections", 1),
                         relative, "grad of projections");
    const torch::Tensor off = module.forward(word, {});
    parity::expect_close(off, GetParam() ? word / (1.0 + kTables) : word, 1e-6, "without rows");
  }
}

TEST_P(Longcat, StepsEqualTheDefinition) {
  OverEncodingImpl module(config_);
  fill(module, "proj.weight", joined(v_, "param.", "projections", 1));
  const torch::Tensor table = joined(v_, "param.", "embedders", 0), &wanted = v_.at("output");
  for (const auto& lengths : splits(tokens_.size(1))) {
    in_steps(hasher_, tokens_, table, lengths,
             [&](int64_t begin, int64_t count, const PagedStep& step, const auto& rows) {
               const torch::Tensor y =
                   module.step(v_.at("word").narrow(1, begin, count).reshape({2 * count, kHidden}), rows, step);
               parity::expect_close(y, wanted.narrow(1, begin, count).reshape(y.sizes()), 1e-5,
                                    fmt::format("from {}", begin));
             });
  }
}

}  // namespace
}  // namespace engram
