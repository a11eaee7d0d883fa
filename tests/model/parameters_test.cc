// Parameter counts against the tensors of real modules, and the allocation solver's check values and refusals.
#include "engram/model/parameters.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "engram/model/transformer.h"
#include "tests/model/rules.h"

namespace engram {
namespace {

ModelConfig base_config() {
  ModelConfig c;  // the defaults are a small mixture: d 64, 4 blocks, E 42
  c.vocab_size = 96;
  c.engram.layer_ids = {1, 3};
  c.engram.max_ngram_size = 3;
  c.engram.n_heads = 4;
  c.engram.head_dim = 8;
  c.engram.vocab_size = {100, 100};
  c.engram.compressed_vocab_size = 90;
  return c;
}

int64_t module_parameters(const ModelConfig& c, bool vocabulary) {
  Transformer model(c);
  int64_t total = 0;
  for (const auto& item : model->named_parameters()) {
    const bool is_vocabulary = item.key() == "lm_head.weight" || item.key() == "model.embed_tokens.weight";
    if (is_vocabulary == vocabulary) total += item.value().numel();
  }
  return total;
}

TEST(Parameters, EqualRealModules) {
  std::vector<ModelConfig> configs;
  for (AttentionKind attention : {AttentionKind::kMla, AttentionKind::kGqa})
    for (FfnKind ffn : {FfnKind::kMoe, FfnKind::kDense})
      for (int streams : {1, 4})
        for (MemoryKind memory : {MemoryKind::kNone, MemoryKind::kEngram, MemoryKind::kOverEncoding}) {
          ModelConfig c = base_config();
          c.attention = attention;
          c.num_key_value_heads = 2;
          c.ffn = ffn;
          c.residual = ResidualKind::kHyper;
          c.hc_mult = streams;
          c.memory = memory;
          if (memory == MemoryKind::kOverEncoding) c.engram.layer_ids = {0};
          configs.push_back(c);
        }
  for (const HashRule rule : {HashRule::kQwen4Exp, HashRule::kLongcat})
    for (int streams : {1, 4}) {
      ModelConfig c = with_rule(base_config(), rule);
      c.residual = ResidualKind::kHyper;
      c.hc_mult = streams;
      configs.push_back(c);
    }
  ModelConfig odd = base_config();
  odd.q_lora_rank = 24;
  odd.tie_word_embeddings = true;
  odd.shared_expert_intermediate_size = 0;
  odd.memory = MemoryKind::kEngram;
  odd.engram_proj_bias = true;
  configs.push_back(odd);
  odd.residual = ResidualKind::kHyper;
  odd.hc_mult = 3;
  odd.engram_branch_gates = false;
  configs.push_back(odd);
  odd.engram_conv = odd.engram_gate = false;
  configs.push_back(odd);

  for (const ModelConfig& c : configs) {
    const ParameterCount count = value_or_throw(count_parameters(c));
    EXPECT_EQ(count.p_tot - count.table, module_parameters(c, false)) << c.to_json().dump();
    EXPECT_EQ(count.vocabulary, module_parameters(c, true));
    int64_t table = 0;
    if (c.memory != MemoryKind::kNone) {
      for (int64_t rows : value_or_throw(count_rows(c.engram))) table += rows * c.engram.head_dim;
    }
    EXPECT_EQ(count.table, table);
    EXPECT_EQ(count.p_sparse, count.p_tot - count.p_act);
  }
}

// P_act by hand for the smallest mixture: what is not used is (E - k) experts per MoE block and all other rows.
TEST(Parameters, ActiveIsTotalLessWhatSleeps) {
  ModelConfig c = base_config();
  c.memory = MemoryKind::kEngram;
  const ParameterCount count = value_or_throw(count_parameters(c));
  const int64_t sleeping_experts = 3 * (42 - 2) * 3 * 64 * 32;
  const int64_t active_rows = 2 * 8 * 8;
  EXPECT_EQ(count.p_sparse, sleeping_experts + count.table - active_rows);
  EXPECT_DOUBLE_EQ(count.rho, static_cast<double>(sleeping_experts) / static_cast<double>(count.p_sparse));
  c.memory = MemoryKind::kNone;
  EXPECT_EQ(value_or_throw(count_parameters(c)).rho, 1.0);
  c.ffn = FfnKind::kDense;
  EXPECT_EQ(value_or_throw(count_parameters(c)).p_sparse, 0);
}

TEST(Parameters, RefusesHostileSizes) {
  ModelConfig c = base_config();
  c.hidden_size = 1 << 20;
  c.n_routed_experts = 1 << 16;
  c.moe_intermediate_size = 1 << 24;
  c.num_hidden_layers = 1024;
  const Result<ParameterCount> count = count_parameters(c);
  ASSERT_FALSE(count.ok());
  EXPECT_NE(count.status().message().find("at most 1e+18"), std::string::npos) << count.status().message();
}

TEST(Allocation, ExpertsThatStay) {
  EXPECT_EQ(experts_at(106, 6, 0.4), 46);
  EXPECT_EQ(experts_at(99, 6, 0.4), 43);
  EXPECT_EQ(experts_at(72, 6, 1.0), 72);
  EXPECT_EQ(experts_at(72, 6, 0.0), 6);
}

// The paper's 27B model: 30 blocks, the first dense, d 2560; 55 of 72 experts stay beside 2 x 16 tables of 2,262,400.
TEST(Allocation, PaperShapeHasThePapersShare) {
  ModelConfig c;
  c.vocab_size = 129280;
  c.hidden_size = 2560;
  c.num_hidden_layers = 30;
  c.moe_intermediate_size = 1536;
  c.n_routed_experts = 55;
  c.num_experts_per_tok = 6;
  c.shared_expert_intermediate_size = 2 * 1536;
  c.residual = ResidualKind::kHyper;
  c.hc_mult = 4;
  c.memory = MemoryKind::kEngram;
  c.engram.layer_ids = {1, 14};
  c.engram.vocab_size = {2262400, 2262400};
  const ParameterCount count = value_or_throw(count_parameters(c));
  EXPECT_NEAR(static_cast<double>(count.table), 5.8e9, 0.1e9);
  EXPECT_NEAR(count.rho, 0.743, 0.0005);
}

TEST(Allocation, KeepsTotalAndActive) {
  for (double rho : {0.9, 0.75, 0.5, 0.25}) {
    const Allocation a = value_or_throw(solve_allocation(base_config(), rho));
    EXPECT_EQ(a.config.memory, MemoryKind::kEngram);
    EXPECT_EQ(a.config.n_routed_experts, experts_at(42, 2, rho));
    EXPECT_LT(a.config.shared_expert_intermediate_size, 32);
    EXPECT_NEAR(static_cast<double>(a.solved.p_tot) / static_cast<double>(a.base.p_tot), 1.0, 0.002);
    EXPECT_NEAR(static_cast<double>(a.solved.p_act) / static_cast<double>(a.base.p_act), 1.0, 0.005);
    EXPECT_NEAR(a.solved.rho, rho, 0.02);
    // One step of the shared expert either way is further from the base.
    for (int step : {-1, 1}) {
      ModelConfig other = a.config;
      other.shared_expert_intermediate_size += step;
      EXPECT_GE(std::abs(value_or_throw(count_parameters(other)).p_act - a.base.p_act),
                std::abs(a.solved.p_act - a.base.p_act));
    }
    EXPECT_EQ(value_or_throw(count_parameters(a.config)).p_tot, a.solved.p_tot);
  }
}

TEST(Allocation, OverEncodingAtEqualParameters) {
  ModelConfig c = base_config();
  c.memory = MemoryKind::kOverEncoding;
  c.engram.layer_ids = {0};
  const Allocation a = value_or_throw(solve_allocation(c, 0.75));
  EXPECT_EQ(a.config.memory, MemoryKind::kOverEncoding);
  EXPECT_NEAR(static_cast<double>(a.solved.p_tot) / static_cast<double>(a.base.p_tot), 1.0, 0.002);
  EXPECT_NEAR(static_cast<double>(a.solved.p_act) / static_cast<double>(a.base.p_act), 1.0, 0.005);
}

// By hand: 2 x 8 heads of primes from 41 on, padded to 16 a table; 8 heads of 89 + 2 i + 1 rows of 8 columns.
TEST(Parameters, TablesOfTheOtherRulesByHand) {
  const ModelConfig qwen = with_rule(base_config(), HashRule::kQwen4Exp);
  const int64_t first = 41 + 43 + 47 + 53 + 59 + 61 + 67 + 71, second = 73 + 79 + 83 + 89 + 97 + 101 + 103 + 107;
  const int64_t projections = 2 * 64 * 64, norms = 3 * 64, taps = 4 * 64;
  const ParameterCount count = value_or_throw(count_parameters(qwen)), none = value_or_throw(count_parameters([] {
                                                                         ModelConfig c = base_config();
                                                                         c.memory = MemoryKind::kNone;
                                                                         return c;
                                                                       }()));
  EXPECT_EQ(count.table, ((first + 15) / 16 + (second + 15) / 16) * 16 * 8);
  EXPECT_EQ(count.p_tot - none.p_tot - count.table, 2 * (projections + norms + taps));
  EXPECT_EQ(count.p_act - none.p_act, 2 * (projections + norms + taps) + 2 * 64);
  const ParameterCount input = value_or_throw(count_parameters(with_rule(base_config(), HashRule::kLongcat)));
  EXPECT_EQ(input.table, (8 * 90 + 2 * 28) * 8);  // int(0.93 * 96 + 2 i + 1)
  EXPECT_EQ(input.p_tot - none.p_tot - input.table, 64 * 64);
  EXPECT_EQ(input.p_act - none.p_act, 64 * 64 + 64);
}

TEST(Allocation, EveryRuleAtEqualParameters) {
  for (const HashRule rule : {HashRule::kQwen4Exp, HashRule::kLongcat}) {
    ModelConfig c = with_rule(base_config(), rule);
    c.engram.vocab_size_ratio = 0;
    c.engram.vocab_size.clear();
    const Allocation a = value_or_throw(solve_allocation(c, 0.75));
    EXPECT_EQ(a.config.engram.rule, rule);
    EXPECT_TRUE(a.config.validate().ok()) << a.config.validate().message();
    EXPECT_NEAR(static_cast<double>(a.solved.p_tot) / static_cast<double>(a.base.p_tot), 1.0, 0.002);
    EXPECT_NEAR(static_cast<double>(a.solved.p_act) / static_cast<double>(a.base.p_act), 1.0, 0.005);
  }
}

TEST(Allocation, RhoOneIsTheBase) {
  const Allocation a = value_or_throw(solve_allocation(base_config(), 1.0));
  EXPECT_EQ(a.config.memory, MemoryKind::kNone);
  EXPECT_EQ(a.config.n_routed_experts, 42);
  EXPECT_EQ(a.solved.p_tot, a.base.p_tot);
}

void expect_refused(const ModelConfig& c, double rho, const std::string& part) {
  const Result<Allocation> a = solve_allocation(c, rho);
  ASSERT_FALSE(a.ok());
  EXPECT_EQ(a.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(a.status().message().find(part), std::string::npos) << a.status().message();
}

TEST(Allocation, RefusesWithTheNumbers) {
  ModelConfig branches = base_config();  // four branches at d = 64: five projections per block cannot be paid
  branches.residual = ResidualKind::kHyper;
  branches.hc_mult = 4;
  expect_refused(branches, 0.75, "the shared experts can give at most 17856");
  expect_refused(base_config(), 0.999, "table rows are left");
  expect_refused(base_config(), 1.5, "rho: got 1.5");
  expect_refused(base_config(), std::nan(""), "rho: got nan");
  ModelConfig dense = base_config();
  dense.ffn = FfnKind::kDense;
  expect_refused(dense, 0.75, "wanted a mixture");
  ModelConfig nowhere = base_config();
  nowhere.engram.layer_ids.clear();
  expect_refused(nowhere, 0.75, "layer_ids is empty");
}

}  // namespace
}  // namespace engram
