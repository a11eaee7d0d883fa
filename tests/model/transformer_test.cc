// The whole decoder: parity with transformers' deepseek_v3, then what must hold for every configuration.
#include "engram/model/transformer.h"

#include <ATen/autocast_mode.h>
#include <torch/nn/functional/loss.h>

#include "engram/model/io/parameter_groups.h"
#include "engram/model/parameters.h"
#include "tests/model/families.h"
#include "tests/model/parity.h"

namespace engram {
namespace {

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "no error";
}

TEST(Transformer, EqualsDeepseekV3) {
  const parity::Tensors v = parity::load("deepseek_v3_decoder");
  ModelConfig c;
  c.vocab_size = 64;
  c.hidden_size = 24;
  c.intermediate_size = 32;
  c.moe_intermediate_size = 12;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 3;
  c.shared_expert_intermediate_size = 24;
  c.n_routed_experts = 5;
  c.num_experts_per_tok = 3;
  c.kv_lora_rank = 20;
  c.qk_nope_head_dim = 10;
  c.qk_rope_head_dim = 6;
  c.v_head_dim = 8;
  c.max_position_embeddings = 64;
  c.rms_norm_eps = 1e-5;
  for (const auto& [dtype, relative] : parity::precisions()) {
    Transformer model(c);
    parity::fill_parameters(*model, v);
    model->to(dtype);
    ForwardInput input;
    input.tokens = v.at("tokens");
    torch::Tensor hidden = model->forward(input);
    torch::Tensor logits = model->logits(hidden);
    parity::expect_close(logits, v.at("logits"), relative, "logits");
    torch::Tensor loss = model->loss(hidden, shifted_targets(input.tokens));
    parity::expect_close(loss, v.at("loss"), relative, "loss");
    ((logits * v.at("loss_weight.logits").to(dtype)).sum() + loss * v.at("loss_weight.loss").to(dtype)).backward();
    parity::expect_gradients(*model, v, relative);
  }
}

TEST(Transformer, FutureTokensDoNotChangeThePast) {
  for (const auto& [name, config] : families()) {
    Transformer model = make_model(config);
    ForwardInput input = random_input(config, 2, 12);
    torch::Tensor before = model->forward(input);
    const int64_t at = 7;
    input.tokens.narrow(1, at, 5).copy_((input.tokens.narrow(1, at, 5) + 1) % config.vocab_size);
    for (MemoryRows& rows : input.memory) rows.index.narrow(1, at, 5).copy_((rows.index.narrow(1, at, 5) + 1) % 40);
    torch::Tensor after = model->forward(input);
    parity::expect_close(after.narrow(1, 0, at), before.narrow(1, 0, at), 1e-6, name);
    EXPECT_GT((after - before).narrow(1, at, 5).abs().max().item<double>(), 1e-3) << name;
  }
}

// With attention_document_mask a packed document gives what it gives alone: attention, conv and positions agree.
TEST(Transformer, PackedDocumentsDoNotMeet) {
  for (auto [name, config] : families()) {
    config.attention_document_mask = true;
    Transformer model = make_model(config);
    const int64_t cut = 5, length = 12;
    ForwardInput packed = random_input(config, 2, length);
    packed.starts = {{0, cut}, {0, cut}};
    ForwardInput alone;
    alone.tokens = packed.tokens.narrow(1, cut, length - cut);
    for (const MemoryRows& rows : packed.memory)
      alone.memory.push_back({rows.unique_rows, rows.index.narrow(1, cut, length - cut).contiguous()});
    torch::Tensor second = model->forward(packed).narrow(1, cut, length - cut);
    parity::expect_close(second, model->forward(alone), 1e-5, name);

    packed.starts.clear();
    torch::Tensor joined = model->forward(packed).narrow(1, cut, length - cut);
    EXPECT_GT((joined - second).abs().max().item<double>(), 1e-3) << name;
  }
}

// Without attention_document_mask document starts still stop the convolution, and nothing else.
TEST(Transformer, DocumentStartsStopTheConvolutionOnly) {
  const ModelConfig plain = small_config();
  Transformer moe = make_model(plain);
  ForwardInput input = random_input(plain, 1, 10);
  torch::Tensor before = moe->forward(input);
  input.starts = {{0, 5}};
  EXPECT_TRUE(torch::equal(moe->forward(input), before));

  const ModelConfig memory = with_engram(small_config());
  Transformer engram = make_model(memory);
  input = random_input(memory, 1, 10);
  before = engram->forward(input);
  input.starts = {{0, 5}};
  torch::Tensor after = engram->forward(input);
  EXPECT_TRUE(torch::allclose(after.narrow(1, 0, 5), before.narrow(1, 0, 5), 1e-6, 1e-6));
  EXPECT_GT((after - before).narrow(1, 5, 5).abs().max().item<double>(), 1e-4);
}

TEST(Transformer, MaskedPositionsCarryNoMemory) {
  const ModelConfig c = with_engram(small_config());
  Transformer model = make_model(c);
  ForwardInput input = random_input(c, 2, 10);
  input.masked = torch::zeros({2, 10}, torch::kBool);
  input.masked.narrow(1, 4, 2).fill_(true);
  ForwardTrace trace;
  torch::Tensor before = model->forward(input, &trace);
  ASSERT_EQ(trace.gates.size(), 2u);
  EXPECT_EQ(trace.gates[0].narrow(1, 4, 2).abs().max().item<float>(), 0.0f);
  EXPECT_GT(trace.gates[0].narrow(1, 0, 4).min().item<float>(), 0.0f);
  // Other rows at the masked positions, or the id -1 instead of 0, change nothing.
  for (MemoryRows& rows : input.memory) rows.index.narrow(1, 4, 2).copy_((rows.index.narrow(1, 4, 2) + 3) % 40);
  input.tokens.narrow(1, 4, 2).fill_(-1);
  torch::Tensor minus = model->forward(input);
  input.tokens.narrow(1, 4, 2).fill_(0);
  EXPECT_TRUE(torch::equal(model->forward(input), minus));
  EXPECT_EQ(before.sizes(), minus.sizes());
}

TEST(Transformer, MemoryOffIsTheModelWithoutMemory) {
  for (const ModelConfig& config : {with_engram(small_config()), with_streams(with_engram(small_config()), 4)}) {
    Transformer model = make_model(config);
    ModelConfig bare_config = config;
    bare_config.memory = MemoryKind::kNone;
    Transformer bare = make_model(bare_config);
    {
      torch::NoGradGuard no_grad;
      auto source = model->named_parameters();
      for (auto& item : bare->named_parameters()) item.value().copy_(source[item.key()]);
    }
    ForwardInput input = random_input(config, 2, 9);
    torch::Tensor on = model->forward(input);
    input.memory_off = true;
    input.memory.clear();  // not needed, and not asked for
    torch::Tensor off = model->forward(input);
    EXPECT_TRUE(torch::equal(off, bare->forward(input)));
    EXPECT_GT((on - off).abs().max().item<double>(), 1e-3);
  }
  const ModelConfig over = with_over_encoding(small_config());
  Transformer model = make_model(over);
  ForwardInput input = random_input(over, 2, 9);
  torch::Tensor on = model->forward(input);
  input.memory_off = true;
  EXPECT_GT((on - model->forward(input)).abs().max().item<double>(), 1e-3);
}

TEST(Transformer, EveryParameterGetsAGradient) {
  for (const auto& [name, config] : families()) {
    Transformer model = make_model(config);
    const ForwardInput input = random_input(config, 3, 16);
    model->loss(model->forward(input), shifted_targets(input.tokens)).backward();
    for (const auto& item : model->named_parameters()) {
      ASSERT_TRUE(item.value().grad().defined()) << name << ' ' << item.key();
      EXPECT_GT(item.value().grad().abs().max().item<double>(), 0.0) << name << ' ' << item.key();
      EXPECT_TRUE(item.value().grad().isfinite().all().item<bool>()) << name << ' ' << item.key();
    }
    for (const MemoryRows& rows : input.memory)
      EXPECT_GT(rows.unique_rows.grad().abs().max().item<double>(), 0.0) << name;
  }
}

TEST(Transformer, RepeatedForwardAndBackwardAreBitwiseEqual) {
  for (const auto& [name, config] : families()) {
    Transformer model = make_model(config);
    const ForwardInput input = random_input(config, 3, 16);
    std::vector<torch::Tensor> first;
    for (int run = 0; run < 2; ++run) {
      model->zero_grad();
      for (const MemoryRows& rows : input.memory) rows.unique_rows.mutable_grad() = torch::Tensor();
      torch::Tensor loss = model->loss(model->forward(input), shifted_targets(input.tokens));
      loss.backward();
      std::vector<torch::Tensor> results = {loss.detach()};
      for (const auto& p : model->parameters()) results.push_back(p.grad().clone());
      for (const MemoryRows& rows : input.memory) results.push_back(rows.unique_rows.grad().clone());
      if (run == 0) first = results;
      for (size_t i = 0; i < results.size(); ++i) EXPECT_TRUE(torch::equal(results[i], first[i])) << name << ' ' << i;
    }
  }
}

TEST(Transformer, OneStreamIsAPlainResidual) {
  torch::manual_seed(8);
  Transformer plain(small_config());
  torch::manual_seed(8);
  Transformer one(with_streams(small_config(), 1));
  ASSERT_EQ(plain->named_parameters().keys(), one->named_parameters().keys());
  const ForwardInput input = random_input(small_config(), 2, 9);
  EXPECT_TRUE(torch::equal(plain->forward(input), one->forward(input)));
}

TEST(Transformer, StreamsStartAsAPlainResidual) {
  torch::manual_seed(9);
  Transformer plain(small_config());
  Transformer hyper(with_streams(small_config(), 4));
  {
    torch::NoGradGuard no_grad;
    auto target = hyper->named_parameters();
    for (const auto& item : plain->named_parameters()) target[item.key()].copy_(item.value());
  }
  const ForwardInput input = random_input(small_config(), 2, 9);
  parity::expect_close(hyper->forward(input), plain->forward(input), 1e-4, "hidden");
}

TEST(Transformer, LossIsTheCrossEntropyOfTheLogits) {
  const ModelConfig c = small_config();
  Transformer model = make_model(c);
  const ForwardInput input = random_input(c, 3, 10);
  torch::Tensor targets = shifted_targets(input.tokens), hidden = model->forward(input);
  torch::Tensor logits = model->logits(hidden);
  EXPECT_EQ(logits.sizes(), (std::vector<int64_t>{3, 10, 50}));
  torch::Tensor expected = torch::nn::functional::cross_entropy(
      logits.view({-1, 50}), targets.view({-1}), torch::nn::functional::CrossEntropyFuncOptions().ignore_index(-1));
  parity::expect_close(model->loss(hidden, targets), expected, 1e-5, "loss");
  const auto [sum, count] = model->loss_sum(hidden, targets);
  EXPECT_EQ(count, 27);
  EXPECT_NEAR(sum / 27, expected.item<double>(), 1e-4);
}

TEST(Transformer, TraceShowsGatesAndBlocks) {
  const ModelConfig c = with_streams(with_engram(small_config()), 4);
  Transformer model = make_model(c);
  const ForwardInput input = random_input(c, 2, 9);
  ForwardTrace trace;
  trace.want_block_outputs = true;
  torch::Tensor hidden = model->forward(input, &trace);
  ASSERT_EQ(trace.gates.size(), 2u);
  EXPECT_EQ(trace.gates[1].sizes(), (std::vector<int64_t>{2, 9, 4}));
  ASSERT_EQ(trace.block_outputs.size(), 3u);
  EXPECT_EQ(trace.block_outputs[0].sizes(), (std::vector<int64_t>{2, 9, 16}));
  EXPECT_FALSE(trace.block_outputs[0].requires_grad());
  // The last block's output, through the final norm, is what forward returns.
  torch::Tensor x = trace.block_outputs[2], weight = model->named_parameters()["model.norm.weight"];
  torch::Tensor normed = x * torch::rsqrt(x.square().mean(-1, true) + c.rms_norm_eps) * weight;
  parity::expect_close(hidden, normed, 1e-5, "hidden");
  EXPECT_TRUE(torch::equal(model->forward(input), hidden));
  ASSERT_EQ(model->gate_means().size(), 2u);
  EXPECT_NEAR(model->gate_means()[1], trace.gates[1].mean().item<double>(), 1e-6);
}

TEST(Transformer, ExpertLoadIsCountedPerBlock) {
  Transformer model = make_model(small_config());
  const ForwardInput input = random_input(small_config(), 4, 16);
  model->forward(input);
  std::vector<double> ratios = model->expert_load_ratio();
  ASSERT_EQ(ratios.size(), 2u);  // block 0 is dense
  for (double ratio : ratios) EXPECT_GE(ratio, 1.0);
  model->update_expert_bias(0.001);
  for (double ratio : model->expert_load_ratio()) EXPECT_EQ(ratio, 0.0);
  torch::Tensor bias = model->named_buffers()["model.layers.1.mlp.gate.e_score_correction_bias"];
  EXPECT_NEAR(bias.abs().max().item<double>(), 0.001, 1e-9);
}

TEST(Transformer, Bf16AutocastStaysCloseAndGivesFp32Gradients) {
  for (const auto& [name, config] : families()) {
    Transformer model = make_model(config);
    const ForwardInput input = random_input(config, 3, 16);
    const torch::Tensor targets = shifted_targets(input.tokens);
    const double expected = model->loss(model->forward(input), targets).item<double>();
    at::autocast::set_autocast_enabled(at::kCPU, true);
    at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
    torch::Tensor loss = model->loss(model->forward(input), targets);
    at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(at::kCPU, false);
    loss.backward();
    EXPECT_NEAR(loss.item<double>(), expected, 0.05 * expected) << name;
    for (const auto& item : model->named_parameters())
      EXPECT_EQ(item.value().grad().scalar_type(), torch::kFloat) << name << ' ' << item.key();
  }
}

TEST(Transformer, ParameterCountEqualsTheModules) {
  for (const auto& [name, config] : families()) {
    const ParameterCount count = value_or_throw(count_parameters(config));
    int64_t total = 0;
    for (const auto& p : Transformer(config)->parameters()) total += p.numel();
    EXPECT_EQ(total, count.p_tot - count.table + count.vocabulary) << name;
  }
}

TEST(Transformer, BadInputIsNamed) {
  const ModelConfig c = with_engram(small_config());
  Transformer model = make_model(c);
  const auto error = [&](const ForwardInput& input) { return message_of([&] { model->forward(input); }); };
  ForwardInput input = random_input(c, 2, 65);
  EXPECT_EQ(error(input), "tokens: got 65 positions, wanted at most max_position_embeddings 64");
  input = random_input(c, 2, 8);
  input.memory.pop_back();
  EXPECT_EQ(error(input), "memory rows: got 1 layers, wanted 2");
  input = random_input(c, 2, 8);
  input.starts = {{0, 3}};
  EXPECT_EQ(error(input), "document starts: got 1 sequences, wanted 2 or none");
  input.starts = {{0, 3}, {4, 4}};
  EXPECT_EQ(error(input), "document starts: got 4 at position 1, wanted ascending indices in [0, 8)");
  input.starts = {{0, 3}, {8}};
  EXPECT_EQ(error(input), "document starts: got 8 at position 0, wanted ascending indices in [0, 8)");
  input = random_input(c, 2, 8);
  input.masked = torch::zeros({2, 7}, torch::kBool);
  EXPECT_EQ(error(input), "masked: got [2, 7], wanted [2, 8]");
  input = random_input(c, 2, 8);
  input.tokens = input.tokens.to(torch::kInt);
  EXPECT_NE(error(input).find("wanted [B, T] int64"), std::string::npos);
  ModelConfig bad = small_config();
  bad.hidden_size = 0;
  EXPECT_NE(message_of([&] { Transformer unused(bad); }).find("hidden_size: got 0"), std::string::npos);
}

TEST(ParameterGroups, KindsSplitsAndDecay) {
  ModelConfig c = with_streams(with_engram(small_config()), 4);
  Transformer model(c);
  std::map<std::string, ParameterInfo> by_name;
  for (const ParameterInfo& info : parameter_groups(*model)) by_name[info.name] = info;
  EXPECT_EQ(by_name.size(), model->named_parameters().size());
  const auto expect = [&](const std::string& name, std::vector<int64_t> splits, bool decay) {
    ASSERT_TRUE(by_name.contains(name)) << name;
    EXPECT_EQ(by_name[name].row_splits, splits) << name;
    EXPECT_EQ(by_name[name].kind, splits.empty() ? ParameterKind::kVector : ParameterKind::kMatrix) << name;
    EXPECT_EQ(by_name[name].decay, decay) << name;
  };
  expect("model.embed_tokens.weight", {}, true);
  expect("lm_head.weight", {}, true);
  expect("model.norm.weight", {}, false);
  expect("model.hc_head.hc_fn", {}, true);
  expect("model.hc_head.hc_base", {}, false);
  const std::string block = "model.layers.2.";
  expect(block + "input_layernorm.weight", {}, false);
  expect(block + "self_attn.q_kv_a_proj.weight", {20, 16}, true);
  expect(block + "self_attn.kv_a_layernorm.weight", {}, false);
  expect(block + "self_attn.kv_b_proj.weight", {28}, true);
  expect(block + "self_attn.o_proj.weight", {16}, true);
  expect(block + "mlp.gate.weight", {}, true);
  expect(block + "mlp.experts.gate_up", {8, 8}, true);
  expect(block + "mlp.experts.down", {16}, true);
  expect(block + "mlp.shared_experts.gate_up_proj.weight", {8, 8}, true);
  expect(block + "attn_hc.fn", {}, true);
  expect(block + "attn_hc.base", {}, false);
  expect(block + "attn_hc.scale", {}, false);
  expect(block + "engram.wkv.weight", {16, 16, 16, 16, 16}, true);
  expect(block + "engram.query_norm.weight", {}, false);
  expect(block + "engram.conv_norm.weight", {}, false);
  expect(block + "engram.conv.weight", {}, false);
  expect("model.layers.0.mlp.gate_up_proj.weight", {24, 24}, true);
  expect("model.layers.0.mlp.down_proj.weight", {16}, true);

  by_name.clear();
  Transformer gqa(with_gqa(with_over_encoding(small_config())));
  for (const ParameterInfo& info : parameter_groups(*gqa)) by_name[info.name] = info;
  expect("model.layers.0.self_attn.qkv_proj.weight", {32, 16, 16}, true);
  expect("model.over_encoding.proj.weight", {16}, true);
}

}  // namespace
}  // namespace engram
