#include "engram/model/model_config.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engram/core/fields.h"

namespace engram {
namespace {

// Largest accepted value of any size: products of a few stay far below 2^63, and hostile files cannot ask for more.
constexpr int64_t kMaxSize = int64_t{1} << 24;

const EnumNames<AttentionKind> kAttentionNames = {{AttentionKind::kMla, "mla"}, {AttentionKind::kGqa, "gqa"}};
const EnumNames<FfnKind> kFfnNames = {{FfnKind::kDense, "dense"}, {FfnKind::kMoe, "moe"}};
const EnumNames<ResidualKind> kResidualNames = {{ResidualKind::kPlain, "plain"}, {ResidualKind::kHyper, "hyper"}};
const EnumNames<RopeType> kRopeTypeNames = {
    {RopeType::kYarn, "yarn"}, {RopeType::kLlama3, "llama3"}, {RopeType::kLinear, "linear"}};
const EnumNames<MemoryKind> kMemoryNames = {
    {MemoryKind::kNone, "none"}, {MemoryKind::kEngram, "engram"}, {MemoryKind::kOverEncoding, "over_encoding"}};
const EnumNames<HashRule> kRuleNames = {{HashRule::kEngram, hash_rule_name(HashRule::kEngram)},
                                        {HashRule::kQwen4Exp, hash_rule_name(HashRule::kQwen4Exp)},
                                        {HashRule::kLongcat, hash_rule_name(HashRule::kLongcat)}};

// The one list of flat keys: reading and writing walk it.
template <typename Config, typename Visitor>
void visit_fields(Config& c, Visitor&& visit) {
  visit("vocab_size", c.vocab_size);
  visit("hidden_size", c.hidden_size);
  visit("num_hidden_layers", c.num_hidden_layers);
  visit("max_position_embeddings", c.max_position_embeddings);
  visit("rms_norm_eps", c.rms_norm_eps);
  visit("initializer_range", c.initializer_range);
  visit("rope_theta", c.rope_theta);
  visit("tie_word_embeddings", c.tie_word_embeddings);
  visit("attention_document_mask", c.attention_document_mask);
  visit("attention", c.attention, kAttentionNames);
  visit("num_attention_heads", c.num_attention_heads);
  visit("num_key_value_heads", c.num_key_value_heads);
  visit("head_dim", c.head_dim);
  visit("qkv_bias", c.qkv_bias);
  visit("qk_norm", c.qk_norm);
  visit("q_lora_rank", c.q_lora_rank);
  visit("kv_lora_rank", c.kv_lora_rank);
  visit("qk_nope_head_dim", c.qk_nope_head_dim);
  visit("qk_rope_head_dim", c.qk_rope_head_dim);
  visit("v_head_dim", c.v_head_dim);
  visit("ffn", c.ffn, kFfnNames);
  visit("intermediate_size", c.intermediate_size);
  visit("first_k_dense_replace", c.first_k_dense_replace);
  visit("moe_intermediate_size", c.moe_intermediate_size);
  visit("n_routed_experts", c.n_routed_experts);
  visit("num_experts_per_tok", c.num_experts_per_tok);
  visit("n_group", c.n_group);
  visit("topk_group", c.topk_group);
  visit("shared_expert_intermediate_size", c.shared_expert_intermediate_size);
  visit("routed_scaling_factor", c.routed_scaling_factor);
  visit("norm_topk_prob", c.norm_topk_prob);
  visit("residual", c.residual, kResidualNames);
  visit("hc_mult", c.hc_mult);
  visit("hc_sinkhorn_iters", c.hc_sinkhorn_iters);
  visit("hc_eps", c.hc_eps);
  visit("memory", c.memory, kMemoryNames);
}

// Keys of the section "rope_scaling".
template <typename Config, typename Visitor>
void visit_rope_scaling_fields(Config& c, Visitor&& visit) {
  visit("rope_type", c.rope_scaling.type, kRopeTypeNames);
  visit("factor", c.rope_scaling.factor);
  visit("original_max_position_embeddings", c.rope_scaling.original_max_position_embeddings);
  visit("beta_fast", c.rope_scaling.beta_fast);
  visit("beta_slow", c.rope_scaling.beta_slow);
  visit("mscale", c.rope_scaling.mscale);
  visit("mscale_all_dim", c.rope_scaling.mscale_all_dim);
  visit("low_freq_factor", c.rope_scaling.low_freq_factor);
  visit("high_freq_factor", c.rope_scaling.high_freq_factor);
}

// Keys of the section "engram". The rule is read first: it decides which others there are.
template <typename Config, typename Visitor>
void visit_engram_fields(Config& c, Visitor&& visit) {
  visit("rule", c.engram.rule, kRuleNames);
  EngramConfig::visit_fields(c.engram, visit);
  if (c.engram.rule == HashRule::kLongcat) return visit("average_word", c.engram_average_word);
  visit("kernel_size", c.engram_kernel_size);
  visit("proj_bias", c.engram_proj_bias);
  visit("branch_gates", c.engram_branch_gates);
  if (c.engram.rule == HashRule::kEngram) visit("compression", c.engram_compression);
  visit("gate", c.engram_gate);
  visit("conv", c.engram_conv);
}

// A known key that the rule has no use for says so, and whose it is.
void refuse_keys_of_other_rules(const ModelConfig& config, Fields& section) {
  const auto keys_of = [&config](HashRule rule) {
    ModelConfig other = config;
    other.engram.rule = rule;
    std::vector<std::string> keys;
    visit_engram_fields(other, [&keys](const char* key, const auto&...) { keys.emplace_back(key); });
    return keys;
  };
  const std::vector<std::string> own = keys_of(config.engram.rule);
  for (const auto& [rule, name] : kRuleNames) {
    for (const std::string& key : keys_of(rule)) {
      if (std::ranges::count(own, key) == 0 && section.object().contains(key))
        section.fail(key, fmt::format("the rule \"{}\" has no such key, \"{}\" has it",
                                      hash_rule_name(config.engram.rule), name));
    }
  }
}

Status check_range(const char* key, int64_t got, int64_t low, int64_t high = kMaxSize) {
  if (got >= low && got <= high) return Status();
  return invalid_argument("{}: got {}, wanted an integer in [{}, {}]", key, got, low, high);
}

Status check_positive(const char* key, double got) {
  if (std::isfinite(got) && got > 0) return Status();
  return invalid_argument("{}: got {}, wanted a positive number", key, got);
}

Status check_not_negative(const char* key, double got) {
  if (std::isfinite(got) && got >= 0) return Status();
  return invalid_argument("{}: got {}, wanted 0 or a positive number", key, got);
}

Status check_even(const char* key, int64_t got) {
  ENGRAM_RETURN_IF_ERROR(check_range(key, got, 2));
  if (got % 2 == 0) return Status();
  return invalid_argument("{}: got {}, wanted an even number (rotary pairs)", key, got);
}

Status check_rope_scaling(const ModelConfig& c) {
  const RopeScaling& r = c.rope_scaling;
  if (!std::isfinite(r.factor) || r.factor < 1)
    return invalid_argument("rope_scaling.factor: got {}, wanted 1 (none) or more", r.factor);
  ENGRAM_RETURN_IF_ERROR(check_range("rope_scaling.original_max_position_embeddings",
                                     r.original_max_position_embeddings, 0, c.max_position_embeddings));
  ENGRAM_RETURN_IF_ERROR(check_positive("rope_scaling.beta_fast", r.beta_fast));
  ENGRAM_RETURN_IF_ERROR(check_positive("rope_scaling.beta_slow", r.beta_slow));
  ENGRAM_RETURN_IF_ERROR(check_not_negative("rope_scaling.mscale", r.mscale));
  ENGRAM_RETURN_IF_ERROR(check_not_negative("rope_scaling.mscale_all_dim", r.mscale_all_dim));
  ENGRAM_RETURN_IF_ERROR(check_positive("rope_scaling.low_freq_factor", r.low_freq_factor));
  if (std::isfinite(r.high_freq_factor) && r.high_freq_factor > r.low_freq_factor) return Status();
  return invalid_argument("rope_scaling.high_freq_factor: got {}, wanted more than low_freq_factor {}",
                          r.high_freq_factor, r.low_freq_factor);
}

Status check_attention(const ModelConfig& c) {
  ENGRAM_RETURN_IF_ERROR(check_range("num_attention_heads", c.num_attention_heads, 1, 4096));
  if (c.attention == AttentionKind::kMla) {
    ENGRAM_RETURN_IF_ERROR(check_range("q_lora_rank", c.q_lora_rank, 0));
    ENGRAM_RETURN_IF_ERROR(check_range("kv_lora_rank", c.kv_lora_rank, 1));
    ENGRAM_RETURN_IF_ERROR(check_range("qk_nope_head_dim", c.qk_nope_head_dim, 1));
    ENGRAM_RETURN_IF_ERROR(check_even("qk_rope_head_dim", c.qk_rope_head_dim));
    if (c.qkv_bias || c.qk_norm)
      return invalid_argument("{}: got true, wanted false when attention is \"mla\"",
                              c.qkv_bias ? "qkv_bias" : "qk_norm");
    return check_range("v_head_dim", c.v_head_dim, 1);
  }
  ENGRAM_RETURN_IF_ERROR(check_even("head_dim", c.head_dim));
  ENGRAM_RETURN_IF_ERROR(check_range("num_key_value_heads", c.num_key_value_heads, 1, c.num_attention_heads));
  if (c.num_attention_heads % c.num_key_value_heads != 0)
    return invalid_argument("num_key_value_heads: got {}, wanted a divisor of num_attention_heads {}",
                            c.num_key_value_heads, c.num_attention_heads);
  return Status();
}

// A group is scored by its two best experts, so that it holds two or more where there are several.
Status check_groups(const ModelConfig& c) {
  ENGRAM_RETURN_IF_ERROR(check_range("n_group", c.n_group, 1, c.n_routed_experts));
  ENGRAM_RETURN_IF_ERROR(check_range("topk_group", c.topk_group, 1, c.n_group));
  if (c.n_group == 1) return Status();
  const int size = c.n_routed_experts / c.n_group;
  if (c.n_routed_experts % c.n_group != 0 || size < 2)
    return invalid_argument("n_group: got {}, wanted 1 or equal groups of two or more of the {} experts", c.n_group,
                            c.n_routed_experts);
  if (c.num_experts_per_tok > c.topk_group * size)
    return invalid_argument("topk_group: got {}, wanted groups with at least num_experts_per_tok {} experts",
                            c.topk_group, c.num_experts_per_tok);
  return Status();
}

Status check_ffn(const ModelConfig& c) {
  ENGRAM_RETURN_IF_ERROR(check_range("intermediate_size", c.intermediate_size, 1));
  if (c.ffn == FfnKind::kDense) return Status();
  ENGRAM_RETURN_IF_ERROR(check_range("first_k_dense_replace", c.first_k_dense_replace, 0, c.num_hidden_layers));
  ENGRAM_RETURN_IF_ERROR(check_range("moe_intermediate_size", c.moe_intermediate_size, 1));
  ENGRAM_RETURN_IF_ERROR(check_range("n_routed_experts", c.n_routed_experts, 1, 1 << 16));
  ENGRAM_RETURN_IF_ERROR(check_range("num_experts_per_tok", c.num_experts_per_tok, 1, c.n_routed_experts));
  ENGRAM_RETURN_IF_ERROR(check_groups(c));
  ENGRAM_RETURN_IF_ERROR(check_range("shared_expert_intermediate_size", c.shared_expert_intermediate_size, 0));
  return check_positive("routed_scaling_factor", c.routed_scaling_factor);
}

Status check_residual(const ModelConfig& c) {
  if (c.residual == ResidualKind::kPlain) {
    if (c.hc_mult != 1) return invalid_argument("hc_mult: got {}, wanted 1 when residual is \"plain\"", c.hc_mult);
    return Status();
  }
  ENGRAM_RETURN_IF_ERROR(check_range("hc_mult", c.hc_mult, 1, 8));
  ENGRAM_RETURN_IF_ERROR(check_range("hc_sinkhorn_iters", c.hc_sinkhorn_iters, 1, 1000));
  return check_positive("hc_eps", c.hc_eps);
}

Status check_layer_ids(const ModelConfig& c) {
  const std::vector<int>& ids = c.engram.layer_ids;
  if (c.memory_at_input()) {
    if (ids == std::vector<int>{0}) return Status();
    return invalid_argument(
        "engram.layer_ids: got [{}], wanted [0] when {}", fmt::join(ids, ", "),
        c.memory == MemoryKind::kOverEncoding ? "memory is \"over_encoding\"" : "the rule is \"longcat\"");
  }
  if (ids.empty()) return invalid_argument("engram.layer_ids: got [], wanted at least one block id");
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= c.num_hidden_layers)
      return invalid_argument("engram.layer_ids[{}]: got {}, wanted a block id in [0, {})", i, ids[i],
                              c.num_hidden_layers);
    if (i > 0 && ids[i] <= ids[i - 1])
      return invalid_argument("engram.layer_ids[{}]: got {} after {}, wanted ascending ids, each once", i, ids[i],
                              ids[i - 1]);
  }
  return Status();
}

Status check_memory(const ModelConfig& c) {
  if (c.memory == MemoryKind::kNone) return Status();
  const EngramConfig& e = c.engram;
  if (c.memory == MemoryKind::kOverEncoding && e.rule != HashRule::kEngram)
    return invalid_argument("engram.rule: got \"{}\", wanted \"engram\" when memory is \"over_encoding\"",
                            hash_rule_name(e.rule));
  ENGRAM_RETURN_IF_ERROR(check_layer_ids(c));
  ENGRAM_RETURN_IF_ERROR(e.validate().with_context("engram"));
  if (e.rule != HashRule::kEngram)
    ENGRAM_RETURN_IF_ERROR(
        check_range("engram.unigram_vocab_size", e.compressed_vocab_size, c.vocab_size, c.vocab_size));
  ENGRAM_RETURN_IF_ERROR(check_range("engram.pad_token_id", e.pad_token_id, 0, c.vocab_size - 1));
  const int64_t least_ids = c.engram_compression ? 1 : c.vocab_size;
  ENGRAM_RETURN_IF_ERROR(check_range("engram.compressed_vocab_size", e.compressed_vocab_size, least_ids, c.vocab_size));
  return check_range("engram.kernel_size", c.engram_kernel_size, 1, 64);
}

}  // namespace

int ModelConfig::num_memory_layers() const {
  if (memory == MemoryKind::kNone) return 0;
  return memory_at_input() ? 1 : static_cast<int>(engram.layer_ids.size());
}

Status ModelConfig::validate() const {
  ENGRAM_RETURN_IF_ERROR(check_range("vocab_size", vocab_size, 1));
  ENGRAM_RETURN_IF_ERROR(check_range("hidden_size", hidden_size, 1, 1 << 20));
  ENGRAM_RETURN_IF_ERROR(check_range("num_hidden_layers", num_hidden_layers, 1, 1024));
  ENGRAM_RETURN_IF_ERROR(check_range("max_position_embeddings", max_position_embeddings, 1));
  ENGRAM_RETURN_IF_ERROR(check_positive("rms_norm_eps", rms_norm_eps));
  ENGRAM_RETURN_IF_ERROR(check_not_negative("initializer_range", initializer_range));
  ENGRAM_RETURN_IF_ERROR(check_positive("rope_theta", rope_theta));
  ENGRAM_RETURN_IF_ERROR(check_rope_scaling(*this));
  ENGRAM_RETURN_IF_ERROR(check_attention(*this));
  ENGRAM_RETURN_IF_ERROR(check_ffn(*this));
  ENGRAM_RETURN_IF_ERROR(check_residual(*this));
  return check_memory(*this);
}

nlohmann::ordered_json ModelConfig::to_json() const {
  nlohmann::ordered_json json, rope, section;
  visit_fields(*this, FieldWriter(json));
  visit_rope_scaling_fields(*this, FieldWriter(rope));
  json["rope_scaling"] = std::move(rope);
  visit_engram_fields(*this, FieldWriter(section));
  json["engram"] = std::move(section);
  return json;
}

Status ModelConfig::read(Fields fields) {
  Fields rope = fields.section("rope_scaling"), section = fields.section("engram");
  visit_fields(*this, fields);
  visit_rope_scaling_fields(*this, rope);
  visit_engram_fields(*this, section);
  refuse_keys_of_other_rules(*this, section);
  if (engram.rule == HashRule::kLongcat) engram.layer_ids = {0};  // so that one key changes the rule of a recipe
  ENGRAM_RETURN_IF_ERROR(fields.finish());
  ENGRAM_RETURN_IF_ERROR(rope.finish());
  return section.finish();
}

Result<ModelConfig> ModelConfig::from_json(const nlohmann::json& json, const std::string& name) {
  ModelConfig config;
  ENGRAM_RETURN_IF_ERROR(config.read(Fields(json, name)));
  return config;
}

}  // namespace engram
