#include "engram/model/convert/hf_config.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "engram/core/fields.h"
#include "engram/core/json.h"

namespace engram {
namespace {

using Json = nlohmann::json;

// Keys that say nothing about the arithmetic of a forward pass.
constexpr std::string_view kSilentKeys =
    "_name_or_path add_cross_attention architectures attention_dropout attn_implementation "
    "_attn_implementation_autoset auto_map aux_loss_alpha bad_words_ids begin_suppress_tokens bos_token_id "
    "chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dtype "
    "early_stopping encoder_no_repeat_ngram_size eos_token_id ep_size exponential_decay_length_penalty "
    "finetuning_task forced_bos_token_id forced_eos_token_id id2label is_decoder is_encoder_decoder "
    "is_llama_config label2id length_penalty max_length max_window_layers min_length model_type "
    "no_repeat_ngram_size num_beam_groups num_beams num_mtp_layers num_nextn_predict_layers num_return_sequences "
    "output_attentions output_hidden_states output_router_logits output_scores pad_token_id prefix pretraining_tp "
    "problem_type remove_invalid_values repetition_penalty return_dict return_dict_in_generate "
    "router_aux_loss_coef sep_token_id seq_aux suppress_tokens task_specific_params temperature tf_legacy_loss "
    "tie_encoder_decoder tokenizer_class top_k top_p torch_dtype torchscript transformers.js_config "
    "transformers_version typical_p unsloth_fixed unsloth_version use_bfloat16 use_cache";

void skip_silent_keys(Fields& fields) {
  for (size_t begin = 0; begin < kSilentKeys.size();) {
    const size_t end = std::min(kSilentKeys.find(' ', begin), kSilentKeys.size());
    fields.find(kSilentKeys.substr(begin, end - begin));
    begin = end + 1;
  }
}

std::string unknown_key_hint(std::string_view) {
  return ": it may change what the model computes, and there is no place for it here";
}

// A key that must be absent or have this value: anything else is arithmetic that we do not have.
void only(Fields& fields, const char* key, const Json& value) {
  const Json* got = fields.find(key);
  if (got != nullptr && *got != value) fields.wrong(key, *got, value.dump());
}

// YaRN of an attention whose heads turn whole: one factor on cos and sin. Ours is 0.1 mscale ln factor + 1.
void read_yarn_factor(Fields& rope, RopeScaling& r, double mscale, double mscale_all_dim) {
  const auto sharpness = [&](double scale) { return 0.1 * scale * std::log(r.factor) + 1; };
  double wanted = sharpness(1);
  if (mscale != 0 && mscale_all_dim != 0) wanted = sharpness(mscale) / sharpness(mscale_all_dim);
  rope("attention_factor", wanted);
  if (wanted < 1) rope.fail("attention_factor", fmt::format("got {}, wanted 1 or more", wanted));
  r.mscale = wanted == sharpness(1) ? 1 : (wanted - 1) / (sharpness(1) - 1);
  r.mscale_all_dim = 0;
}

void read_yarn(Fields& rope, const ModelConfig& c, RopeScaling& r) {
  double mscale = 0, mscale_all_dim = 0;
  rope("beta_fast", r.beta_fast);
  rope("beta_slow", r.beta_slow);
  rope("mscale", mscale);
  rope("mscale_all_dim", mscale_all_dim);
  only(rope, "truncate", true);
  if (!rope.status().ok() || !(r.factor > 1)) return;
  if (c.attention == AttentionKind::kGqa) return read_yarn_factor(rope, r, mscale, mscale_all_dim);
  // Scores are sharpened by mscale_all_dim alone; without both, cos and sin are by 1.
  r.mscale = mscale_all_dim != 0 ? mscale : 1;
  r.mscale_all_dim = mscale_all_dim;
  if (mscale == 0 && mscale_all_dim != 0) rope.fail("mscale", "got none, wanted one beside mscale_all_dim");
}

// rope_parameters of today's files, rope_scaling and rope_theta of older ones.
Status read_rope(Fields& fields, ModelConfig& c) {
  const bool today = fields.find("rope_parameters") != nullptr;
  const char* other = today ? "rope_scaling" : "rope_parameters";
  if (today && fields.find(other) != nullptr) fields.fail(other, "got it beside rope_parameters, wanted one of them");
  Fields rope = fields.section(today ? "rope_parameters" : "rope_scaling");
  fields("rope_theta", c.rope_theta);
  rope("rope_theta", c.rope_theta);
  for (Fields* place : {&fields, &rope}) only(*place, "partial_rotary_factor", 1.0);

  RopeScaling& r = c.rope_scaling;
  std::string type = "default";
  rope("type", type);
  rope("rope_type", type);
  if (type == "linear" || type == "llama3" || type == "yarn") {
    rope.need("factor", r.factor);
    r.type = type == "linear" ? RopeType::kLinear : type == "llama3" ? RopeType::kLlama3 : RopeType::kYarn;
  } else if (type != "default") {
    rope.fail("rope_type",
              fmt::format("got {}, wanted \"default\", \"linear\", \"llama3\" or \"yarn\"", quote_text(type)));
  }
  if (type == "llama3" || type == "yarn")
    rope.need("original_max_position_embeddings", r.original_max_position_embeddings);
  if (type == "llama3") {
    rope.need("low_freq_factor", r.low_freq_factor);
    rope.need("high_freq_factor", r.high_freq_factor);
  }
  if (type == "yarn") read_yarn(rope, c, r);
  ENGRAM_RETURN_IF_ERROR(fields.status());
  return rope.finish();
}

void read_window(Fields& fields, const std::string& type, const ModelConfig& c) {
  only(fields, "use_sliding_window", false);
  if (const Json* types = fields.find("layer_types")) {
    for (const Json& layer : types->is_array() ? *types : Json::array({*types}))
      if (layer != "full_attention") fields.wrong("layer_types", layer, "\"full_attention\"");
  }
  int64_t window = type == "mistral" && !fields.object().contains("sliding_window") ? 4096 : 0;  // its default
  fields("sliding_window", window);
  if (type.starts_with("qwen")) return;  // without use_sliding_window there is none
  if (window > 0 && window < c.max_position_embeddings)
    fields.fail("sliding_window", fmt::format("got {} with max_position_embeddings {}, wanted null (a window is not "
                                              "implemented)",
                                              window, c.max_position_embeddings));
}

void read_gqa(Fields& fields, const std::string& type, ModelConfig& c) {
  c.attention = AttentionKind::kGqa;
  c.ffn = FfnKind::kDense;
  fields.need("num_attention_heads", c.num_attention_heads, 1, 4096);
  if (!fields.status().ok()) return;
  c.num_key_value_heads = c.num_attention_heads;
  fields("num_key_value_heads", c.num_key_value_heads);
  c.head_dim = type == "qwen3" ? 128 : c.hidden_size / c.num_attention_heads;
  fields("head_dim", c.head_dim);
  c.qkv_bias = type == "qwen2";
  c.qk_norm = type == "qwen3";
  only(fields, "attention_bias", false);
  only(fields, "rope_interleaved", false);
}

void read_deepseek(Fields& fields, ModelConfig& c) {
  int shared = 1;
  fields.need("num_attention_heads", c.num_attention_heads);
  only(fields, "num_key_value_heads", c.num_attention_heads);
  fields.skip({"head_dim", "qk_head_dim"});  // sums of the others
  fields("q_lora_rank", c.q_lora_rank);      // null: none
  fields.need("kv_lora_rank", c.kv_lora_rank);
  fields.need("qk_nope_head_dim", c.qk_nope_head_dim);
  fields.need("qk_rope_head_dim", c.qk_rope_head_dim);
  fields.need("v_head_dim", c.v_head_dim);
  fields.need("first_k_dense_replace", c.first_k_dense_replace);
  fields.need("moe_intermediate_size", c.moe_intermediate_size, 1, 1 << 24);
  fields.need("n_routed_experts", c.n_routed_experts);
  fields.need("num_experts_per_tok", c.num_experts_per_tok);
  fields.need("n_group", c.n_group);
  fields.need("topk_group", c.topk_group);
  fields.need("n_shared_experts", shared, 0, 64);
  fields.need("routed_scaling_factor", c.routed_scaling_factor);
  fields("norm_topk_prob", c.norm_topk_prob);
  c.shared_expert_intermediate_size = shared * c.moe_intermediate_size;
  only(fields, "scoring_func", "sigmoid");
  only(fields, "topk_method", "noaux_tc");
  only(fields, "moe_layer_freq", 1);
  only(fields, "rope_interleave", true);
  only(fields, "attention_bias", false);
}

// The family whose code computes what this configuration says; "" for none.
std::string family_of(const ModelConfig& c) {
  if (c.memory != MemoryKind::kNone || c.has_hyper_connections()) return "";
  const bool moe = c.ffn == FfnKind::kMoe;
  if (c.attention == AttentionKind::kGqa) {
    if (moe || (c.qk_norm && c.qkv_bias)) return "";
    return c.qk_norm ? "qwen3" : c.qkv_bias ? "qwen2" : "llama";
  }
  const RopeScaling& r = c.rope_scaling;
  const bool yarn = r.factor != 1 && r.type == RopeType::kYarn;
  const bool sharpened = (r.mscale != 0 && r.mscale_all_dim != 0) || (r.mscale == 1 && r.mscale_all_dim == 0);
  const bool shared =
      c.shared_expert_intermediate_size > 0 && c.shared_expert_intermediate_size % c.moe_intermediate_size == 0;
  return moe && shared && (!yarn || sharpened) ? "deepseek_v3" : "";
}

nlohmann::ordered_json rope_scaling_json(const ModelConfig& c) {
  const RopeScaling& r = c.rope_scaling;
  if (r.factor == 1) return nullptr;
  const char* type = r.type == RopeType::kYarn ? "yarn" : r.type == RopeType::kLlama3 ? "llama3" : "linear";
  nlohmann::ordered_json out = {{"rope_type", type}, {"factor", r.factor}};
  if (r.type == RopeType::kLinear) return out;
  out["original_max_position_embeddings"] = r.original_max_position_embeddings > 0
                                                ? r.original_max_position_embeddings
                                                : static_cast<int>(c.max_position_embeddings / r.factor);
  if (r.type == RopeType::kLlama3) {
    out["low_freq_factor"] = r.low_freq_factor;
    out["high_freq_factor"] = r.high_freq_factor;
    return out;
  }
  out["beta_fast"] = r.beta_fast;
  out["beta_slow"] = r.beta_slow;
  if (c.attention == AttentionKind::kGqa) {  // heads turn whole: cos and sin take the scores' factor too
    out["attention_factor"] = 0.1 * r.mscale * std::log(r.factor) + 1;
  } else if (r.mscale_all_dim != 0) {
    out["mscale"] = r.mscale;
    out["mscale_all_dim"] = r.mscale_all_dim;
  }
  return out;
}

}  // namespace

Result<HfConfig> read_hf_config(const Json& json, const std::string& name) {
  Fields fields(json, FieldSource{name, {}, unknown_key_hint});
  std::string type;
  fields.need("model_type", type);
  ENGRAM_RETURN_IF_ERROR(fields.status());
  const bool deepseek = type == "deepseek_v3";
  if (!deepseek && type != "llama" && type != "qwen2" && type != "qwen3" && type != "mistral")
    return invalid_argument(
        "{}: model_type: got {}, wanted \"llama\", \"qwen2\", \"qwen3\", \"mistral\" or \"deepseek_v3\"", name,
        quote_text(type));
  HfConfig out;
  ModelConfig& c = out.config;
  skip_silent_keys(fields);
  fields.need("vocab_size", c.vocab_size);
  fields.need("hidden_size", c.hidden_size);
  fields.need("num_hidden_layers", c.num_hidden_layers);
  fields.need("intermediate_size", c.intermediate_size);
  fields.need("max_position_embeddings", c.max_position_embeddings);
  fields("rms_norm_eps", c.rms_norm_eps);
  fields("initializer_range", c.initializer_range);
  fields("tie_word_embeddings", c.tie_word_embeddings);
  only(fields, "hidden_act", "silu");
  only(fields, "mlp_bias", false);
  only(fields, "use_mrope", false);
  for (const char* softcap : {"attn_logit_softcapping", "final_logit_softcapping"}) only(fields, softcap, nullptr);
  if (deepseek) {
    read_deepseek(fields, c);
  } else {
    read_gqa(fields, type, c);
  }
  read_window(fields, type, c);
  ENGRAM_RETURN_IF_ERROR(read_rope(fields, c));
  ENGRAM_RETURN_IF_ERROR(fields.finish());
  ENGRAM_RETURN_IF_ERROR(c.validate().with_context(name));
  fields("bos_token_id", out.bos, 0, c.vocab_size - 1);
  fields("eos_token_id", out.eos, 0, c.vocab_size - 1);
  ENGRAM_RETURN_IF_ERROR(fields.status());
  return out;
}

bool has_hf_family(const ModelConfig& c) { return !family_of(c).empty(); }

nlohmann::ordered_json make_hf_config(const ModelConfig& c) {
  const std::string family = family_of(c);
  const bool deepseek = family == "deepseek_v3";
  nlohmann::ordered_json out;
  out["model_type"] = family;
  out["architectures"] = {deepseek            ? "DeepseekV3ForCausalLM"
                          : family == "llama" ? "LlamaForCausalLM"
                          : family == "qwen2" ? "Qwen2ForCausalLM"
                                              : "Qwen3ForCausalLM"};
  out["vocab_size"] = c.vocab_size;
  out["hidden_size"] = c.hidden_size;
  out["intermediate_size"] = c.intermediate_size;
  out["num_hidden_layers"] = c.num_hidden_layers;
  out["num_attention_heads"] = c.num_attention_heads;
  out["num_key_value_heads"] = deepseek ? c.num_attention_heads : c.num_key_value_heads;
  out["max_position_embeddings"] = c.max_position_embeddings;
  out["rms_norm_eps"] = c.rms_norm_eps;
  out["initializer_range"] = c.initializer_range;
  out["rope_theta"] = c.rope_theta;
  out["rope_scaling"] = rope_scaling_json(c);
  out["tie_word_embeddings"] = c.tie_word_embeddings;
  out["hidden_act"] = "silu";
  if (family != "qwen2") out["attention_bias"] = false;
  if (!deepseek) {
    out["head_dim"] = c.head_dim;
    if (family != "llama") out["use_sliding_window"] = false;
    return out;
  }
  out["q_lora_rank"] = c.q_lora_rank > 0 ? nlohmann::ordered_json(c.q_lora_rank) : nullptr;
  out["kv_lora_rank"] = c.kv_lora_rank;
  out["qk_nope_head_dim"] = c.qk_nope_head_dim;
  out["qk_rope_head_dim"] = c.qk_rope_head_dim;
  out["v_head_dim"] = c.v_head_dim;
  out["first_k_dense_replace"] = c.first_k_dense_replace;
  out["moe_intermediate_size"] = c.moe_intermediate_size;
  out["n_routed_experts"] = c.n_routed_experts;
  out["n_shared_experts"] = c.shared_expert_intermediate_size / c.moe_intermediate_size;
  out["num_experts_per_tok"] = c.num_experts_per_tok;
  out["n_group"] = c.n_group;
  out["topk_group"] = c.topk_group;
  out["routed_scaling_factor"] = c.routed_scaling_factor;
  out["norm_topk_prob"] = c.norm_topk_prob;
  out["scoring_func"] = "sigmoid";
  out["topk_method"] = "noaux_tc";
  out["rope_interleave"] = true;
  out["num_nextn_predict_layers"] = 0;
  return out;
}

}  // namespace engram
