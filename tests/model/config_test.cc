// ModelConfig: JSON there and back, strictness, and what validate() refuses.
#include "engram/model/model_config.h"

#include <nlohmann/json.hpp>

#include <gtest/gtest.h>

#include "tests/model/rules.h"

namespace engram {
namespace {

using nlohmann::json;

ModelConfig engram_model() {
  ModelConfig c;
  c.vocab_size = 8192;
  c.memory = MemoryKind::kEngram;
  c.engram.layer_ids = {1, 3};
  c.engram.n_heads = 4;
  c.engram.head_dim = 8;
  c.engram.vocab_size = {1000, 2000};
  c.engram.compressed_vocab_size = 7000;
  return c;
}

json as_json(const ModelConfig& config) { return json::parse(config.to_json().dump()); }

void expect_refused(const ModelConfig& config, const std::string& message) {
  const Status status = config.validate();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), message);
}

std::string read_error(const json& value) {
  const Result<ModelConfig> result = ModelConfig::from_json(value, "config.json");
  return result.ok() ? "ok" : result.status().message();
}

TEST(ModelConfig, JsonRoundTripKeepsEveryKey) {
  ModelConfig c = engram_model();
  c.hidden_size = 96;
  c.rms_norm_eps = 1.1920928955078125e-07;
  c.attention = AttentionKind::kGqa;
  c.ffn = FfnKind::kDense;
  c.residual = ResidualKind::kHyper;
  c.hc_mult = 4;
  c.tie_word_embeddings = true;
  c.attention_document_mask = true;
  c.engram.seed = int64_t{1} << 40;
  c.engram_kernel_size = 3;
  c.engram_proj_bias = true;
  c.engram_branch_gates = c.engram_compression = c.engram_gate = c.engram_conv = false;
  const ModelConfig back = value_or_throw(ModelConfig::from_json(as_json(c), "config.json"));
  EXPECT_EQ(as_json(back), as_json(c));
  // Every value above differs from its default, so an unread key would show.
  const json defaults = as_json(ModelConfig());
  for (const char* key : {"vocab_size", "hidden_size", "rms_norm_eps", "attention", "ffn", "residual", "hc_mult",
                          "tie_word_embeddings", "attention_document_mask", "memory"})
    EXPECT_NE(as_json(back)[key], defaults[key]) << key;
}

TEST(ModelConfig, EveryKeyIsReadBack) {
  // Changes one key at a time, so a key written from one field and read into another cannot hide.
  const json original = as_json(engram_model());
  const auto changed = [](const json& value) -> json {
    if (value.is_boolean()) return !value.get<bool>();
    if (value.is_number_integer()) return value.get<int64_t>() + 1;
    if (value.is_number()) return value.get<double>() * 2;
    if (value.is_array()) return json::array({7});
    const std::string text = value;
    if (text == "mla" || text == "gqa") return text == "mla" ? "gqa" : "mla";
    if (text == "moe" || text == "dense") return text == "moe" ? "dense" : "moe";
    if (text == "yarn") return "llama3";
    if (text == "plain" || text == "hyper") return text == "plain" ? "hyper" : "plain";
    return text == "none" ? "over_encoding" : "none";
  };
  for (const auto& [key, value] : original.items()) {
    if (value.is_object()) continue;
    json edited = original;
    edited[key] = changed(value);
    EXPECT_EQ(as_json(value_or_throw(ModelConfig::from_json(edited, "c"))), edited) << key;
  }
  for (const char* section : {"rope_scaling", "engram"}) {
    for (const auto& [key, value] : original[section].items()) {
      if (key == "rule") continue;  // changes which keys there are
      json edited = original;
      edited[section][key] = changed(value);
      EXPECT_EQ(as_json(value_or_throw(ModelConfig::from_json(edited, "c"))), edited) << section << '.' << key;
    }
  }
}

TEST(ModelConfig, EveryRuleReadsBackWhatItHas) {
  for (const HashRule rule : {HashRule::kQwen4Exp, HashRule::kLongcat}) {
    ModelConfig c = with_rule(engram_model(), rule, /*average_word=*/false);
    c.engram_kernel_size = rule == HashRule::kLongcat ? 4 : 3;
    const json written = as_json(c);
    EXPECT_EQ(written["engram"]["rule"], hash_rule_name(rule));
    EXPECT_EQ(written["engram"]["eos_token_id"], 7);
    EXPECT_EQ(written["engram"].contains("average_word"), rule == HashRule::kLongcat);
    const ModelConfig back = value_or_throw(ModelConfig::from_json(written, "c"));
    EXPECT_EQ(as_json(back), written);
    EXPECT_TRUE(back.validate().ok()) << back.validate().message();
    EXPECT_EQ(back.num_memory_layers(), rule == HashRule::kLongcat ? 1 : 2);
    EXPECT_EQ(back.memory_in_blocks(), rule == HashRule::kQwen4Exp);
  }
}

TEST(ModelConfig, KeysOfAnotherRuleSayWhoseTheyAre) {
  const auto error = [](const char* rule, const char* key, const json& value) {
    return read_error({{"engram", {{"rule", rule}, {key, value}}}});
  };
  EXPECT_EQ(error("qwen3", "seed", 1),
            "config.json: engram.rule: got 'qwen3', wanted \"engram\" or \"qwen4exp\" or \"longcat\"");
  EXPECT_EQ(error("qwen4exp", "compression", false),
            "config.json: engram.compression: the rule \"qwen4exp\" has no such key, \"engram\" has it");
  EXPECT_EQ(error("qwen4exp", "pad_token_id", 2),
            "config.json: engram.pad_token_id: the rule \"qwen4exp\" has no such key, \"engram\" has it");
  EXPECT_EQ(error("engram", "rows_divisible_by", 128),
            "config.json: engram.rows_divisible_by: the rule \"engram\" has no such key, \"qwen4exp\" has it");
  EXPECT_EQ(error("qwen4exp", "vocab_size_ratio", 2),
            "config.json: engram.vocab_size_ratio: the rule \"qwen4exp\" has no such key, \"longcat\" has it");
  EXPECT_EQ(error("longcat", "vocab_size", {10, 10}),
            "config.json: engram.vocab_size: the rule \"longcat\" has no such key, \"engram\" has it");
  EXPECT_EQ(error("longcat", "kernel_size", 4),
            "config.json: engram.kernel_size: the rule \"longcat\" has no such key, \"engram\" has it");
  EXPECT_EQ(error("longcat", "eos_token", 4),
            "config.json: unknown key 'engram.eos_token'; did you mean engram.eos_token_id?");
  // One key changes the rule of a recipe: longcat's memory is at the input, whatever blocks the recipe names.
  const json blocks = {{"engram", {{"rule", "longcat"}, {"layer_ids", {1, 3}}}}};
  EXPECT_EQ(value_or_throw(ModelConfig::from_json(blocks, "c")).engram.layer_ids, std::vector<int>{0});
}

TEST(ModelConfig, ValidateRefusesWhatARuleCannotHave) {
  ModelConfig c = with_rule(engram_model(), HashRule::kQwen4Exp);
  c.engram.pad_token_id = 8192;
  expect_refused(c, "engram: eos_token_id: got 8192, wanted 0 .. 8191");
  c = with_rule(engram_model(), HashRule::kQwen4Exp);
  c.engram.compressed_vocab_size = 7000;
  expect_refused(c, "engram.unigram_vocab_size: got 7000, wanted an integer in [8192, 8192]");
  c = with_rule(engram_model(), HashRule::kQwen4Exp);
  c.engram.vocab_size = {1000, 2000};
  expect_refused(c, "engram: vocab_size: got 1000 and 2000, wanted one size for all orders");
  c.engram.vocab_size = {int64_t{1} << 62, int64_t{1} << 62};
  expect_refused(c, "engram: vocab_size: got 4611686018427387904, wanted 1 .. 274877906944");
  c = with_rule(engram_model(), HashRule::kQwen4Exp);
  c.engram.rows_divisible_by = int64_t{1} << 62;
  expect_refused(c, "engram: rows_divisible_by: got 4611686018427387904, wanted 1 .. 274877906944");
  c = with_rule(engram_model(), HashRule::kQwen4Exp);
  c.memory = MemoryKind::kOverEncoding;
  expect_refused(c, "engram.rule: got \"qwen4exp\", wanted \"engram\" when memory is \"over_encoding\"");
  c = with_rule(engram_model(), HashRule::kLongcat);
  c.engram.layer_ids = {1};
  expect_refused(c, "engram.layer_ids: got [1], wanted [0] when the rule is \"longcat\"");
  for (const double ratio : {0.0, -1.0, 1e300, std::nan("")}) {
    c = with_rule(engram_model(), HashRule::kLongcat);
    c.engram.vocab_size_ratio = ratio;
    expect_refused(c, fmt::format("engram: vocab_size_ratio: got {}, wanted above 0, with heads of at most 274877906944"
                                  " rows",
                                  ratio));
  }
}

TEST(ModelConfig, MissingKeysKeepDefaults) {
  const ModelConfig c = value_or_throw(ModelConfig::from_json(json{{"vocab_size", 10}}, "c"));
  ModelConfig expected;
  expected.vocab_size = 10;
  EXPECT_EQ(c.to_json(), expected.to_json());
}

TEST(ModelConfig, StrictReadingNamesTheKey) {
  EXPECT_EQ(read_error(json::array()), "config.json: got an array, wanted an object");
  EXPECT_EQ(read_error({{"hiden_size", 64}}), "config.json: unknown key 'hiden_size'; did you mean hidden_size?");
  EXPECT_EQ(read_error({{"engram", {{"heads", 1}}}}),
            "config.json: unknown key 'engram.heads'; did you mean engram.n_heads?");
  EXPECT_EQ(read_error({{"engram", 3}}), "config.json: engram: got 3, wanted an object");
  EXPECT_EQ(read_error({{"hidden_size", "64"}}),
            "config.json: hidden_size: got '64', wanted an integer in [-2147483648, 2147483647]");
  EXPECT_EQ(read_error({{"hidden_size", 64.5}}),
            "config.json: hidden_size: got 64.5, wanted an integer in [-2147483648, 2147483647]");
  EXPECT_EQ(read_error({{"hidden_size", 3000000000u}}),
            "config.json: hidden_size: got 3000000000, wanted an integer in [-2147483648, 2147483647]");
  EXPECT_EQ(read_error({{"memory", "ngram"}}),
            "config.json: memory: got 'ngram', wanted \"none\" or \"engram\" or \"over_encoding\"");
  EXPECT_EQ(read_error({{"tie_word_embeddings", 1}}), "config.json: tie_word_embeddings: got 1, wanted true or false");
  EXPECT_EQ(read_error({{"rope_theta", true}}), "config.json: rope_theta: got true, wanted a finite number");
  EXPECT_EQ(read_error({{"engram", {{"layer_ids", {1, "x"}}}}}),
            "config.json: engram.layer_ids[1]: got 'x', wanted an integer in [-2147483648, 2147483647]");
}

TEST(ModelConfig, ValidateAcceptsTheDefaultsWithAVocabulary) {
  ModelConfig c;
  c.vocab_size = 16;
  EXPECT_TRUE(c.validate().ok()) << c.validate().message();
  EXPECT_TRUE(engram_model().validate().ok()) << engram_model().validate().message();
  EXPECT_EQ(engram_model().num_memory_layers(), 2);
  EXPECT_EQ(engram_model().rows_per_token(), 8);
  EXPECT_EQ(c.num_memory_layers(), 0);
  EXPECT_EQ(c.rows_per_token(), 0);
}

TEST(ModelConfig, ValidateRefuses) {
  expect_refused(ModelConfig(), "vocab_size: got 0, wanted an integer in [1, 16777216]");
  ModelConfig c = engram_model();
  c.num_attention_heads = 0;
  expect_refused(c, "num_attention_heads: got 0, wanted an integer in [1, 4096]");
  c = engram_model();
  c.qk_rope_head_dim = 7;
  expect_refused(c, "qk_rope_head_dim: got 7, wanted an even number (rotary pairs)");
  c = engram_model();
  c.attention = AttentionKind::kGqa;
  c.num_key_value_heads = 3;
  expect_refused(c, "num_key_value_heads: got 3, wanted a divisor of num_attention_heads 4");
  c.num_key_value_heads = 2;
  c.qkv_bias = c.qk_norm = true;
  EXPECT_TRUE(c.validate().ok()) << c.validate().message();
  c.attention = AttentionKind::kMla;
  expect_refused(c, "qkv_bias: got true, wanted false when attention is \"mla\"");
  c = engram_model();
  c.rope_scaling.type = RopeType::kLlama3;
  c.rope_scaling.high_freq_factor = 1;
  expect_refused(c, "rope_scaling.high_freq_factor: got 1, wanted more than low_freq_factor 1");
  c = engram_model();
  c.n_group = 4;  // of 42 experts
  expect_refused(c, "n_group: got 4, wanted 1 or equal groups of two or more of the 42 experts");
  c.n_group = 21;
  c.topk_group = 2;
  c.num_experts_per_tok = 5;
  expect_refused(c, "topk_group: got 2, wanted groups with at least num_experts_per_tok 5 experts");
  c = engram_model();
  c.num_experts_per_tok = 43;
  expect_refused(c, "num_experts_per_tok: got 43, wanted an integer in [1, 42]");
  c = engram_model();
  c.hc_mult = 4;
  expect_refused(c, "hc_mult: got 4, wanted 1 when residual is \"plain\"");
  c = engram_model();
  c.rms_norm_eps = 0;
  expect_refused(c, "rms_norm_eps: got 0, wanted a positive number");
  c = engram_model();
  c.engram.layer_ids = {1, 4};
  expect_refused(c, "engram.layer_ids[1]: got 4, wanted a block id in [0, 4)");
  c.engram.layer_ids = {1, 1};
  expect_refused(c, "engram.layer_ids[1]: got 1 after 1, wanted ascending ids, each once");
  c.engram.layer_ids = {};
  expect_refused(c, "engram.layer_ids: got [], wanted at least one block id");
  c = engram_model();
  c.memory = MemoryKind::kOverEncoding;
  expect_refused(c, "engram.layer_ids: got [1, 3], wanted [0] when memory is \"over_encoding\"");
  c = engram_model();
  c.engram.vocab_size = {1000};
  expect_refused(c, "engram: vocab_size: got 1 sizes, wanted 2: one for each order 2 .. max_ngram_size = 3");
  c = engram_model();
  c.engram.compressed_vocab_size = 8193;
  expect_refused(c, "engram.compressed_vocab_size: got 8193, wanted an integer in [1, 8192]");
  c.engram.compressed_vocab_size = 7000;
  c.engram_compression = false;
  expect_refused(c, "engram.compressed_vocab_size: got 7000, wanted an integer in [8192, 8192]");
  c = engram_model();
  c.engram.pad_token_id = 8192;
  expect_refused(c, "engram.pad_token_id: got 8192, wanted an integer in [0, 8191]");
}

}  // namespace
}  // namespace engram
