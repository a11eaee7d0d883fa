#include "engram/model/convert/model_tensors.h"

#include <string>
#include <utility>

namespace engram {
namespace {

class List {
 public:
  explicit List(const std::function<Status(TensorSpec)>& visit) : visit_(visit) {}
  void add(const std::string& name, std::vector<int64_t> shape) {
    if (status_.ok()) status_ = visit_({name, DType::kF32, std::move(shape)});
  }
  void add_ffn(const std::string& name, int64_t width, int64_t d) {
    add(name + ".gate_proj.weight", {width, d});
    add(name + ".up_proj.weight", {width, d});
    add(name + ".down_proj.weight", {d, width});
  }
  const Status& status() const { return status_; }

 private:
  const std::function<Status(TensorSpec)>& visit_;
  Status status_;
};

void add_mla(List& list, const ModelConfig& c, const std::string& name) {
  const int64_t d = c.hidden_size, heads = c.num_attention_heads, nope = c.qk_nope_head_dim, rope = c.qk_rope_head_dim;
  const int64_t rank = c.kv_lora_rank, query = heads * (nope + rope), value = c.v_head_dim;
  if (c.q_lora_rank > 0) {
    list.add(name + ".q_a_proj.weight", {c.q_lora_rank, d});
    list.add(name + ".q_a_layernorm.weight", {c.q_lora_rank});
    list.add(name + ".q_b_proj.weight", {query, c.q_lora_rank});
  } else {
    list.add(name + ".q_proj.weight", {query, d});
  }
  list.add(name + ".kv_a_proj_with_mqa.weight", {rank + rope, d});
  list.add(name + ".kv_a_layernorm.weight", {rank});
  list.add(name + ".kv_b_proj.weight", {heads * (nope + value), rank});
  list.add(name + ".o_proj.weight", {d, heads * value});
}

void add_gqa(List& list, const ModelConfig& c, const std::string& name) {
  const int64_t d = c.hidden_size, query = int64_t{c.num_attention_heads} * c.head_dim;
  const int64_t key = int64_t{c.num_key_value_heads} * c.head_dim;
  for (const auto& [projection, rows] : {std::pair(".q_proj", query), {".k_proj", key}, {".v_proj", key}}) {
    list.add(name + projection + ".weight", {rows, d});
    if (c.qkv_bias) list.add(name + projection + ".bias", {rows});
  }
  if (c.qk_norm) {
    list.add(name + ".q_norm.weight", {c.head_dim});
    list.add(name + ".k_norm.weight", {c.head_dim});
  }
  list.add(name + ".o_proj.weight", {d, query});
}

void add_moe(List& list, const ModelConfig& c, const std::string& name) {
  const int64_t d = c.hidden_size, experts = c.n_routed_experts;
  list.add(name + ".gate.weight", {experts, d});
  list.add(name + ".gate.e_score_correction_bias", {experts});
  for (int64_t e = 0; e < experts && list.status().ok(); ++e)
    list.add_ffn(name + ".experts." + std::to_string(e), c.moe_intermediate_size, d);
  if (c.shared_expert_intermediate_size > 0)
    list.add_ffn(name + ".shared_experts", c.shared_expert_intermediate_size, d);
}

}  // namespace

Status visit_model_tensors(const ModelConfig& c, const std::function<Status(TensorSpec)>& visit) {
  List list(visit);
  const int64_t d = c.hidden_size;
  list.add("model.embed_tokens.weight", {c.vocab_size, d});
  for (int block = 0; block < c.num_hidden_layers && list.status().ok(); ++block) {
    const std::string name = "model.layers." + std::to_string(block);
    list.add(name + ".input_layernorm.weight", {d});
    (c.attention == AttentionKind::kMla ? add_mla : add_gqa)(list, c, name + ".self_attn");
    list.add(name + ".post_attention_layernorm.weight", {d});
    if (c.is_moe_block(block)) {
      add_moe(list, c, name + ".mlp");
    } else {
      list.add_ffn(name + ".mlp", c.intermediate_size, d);
    }
  }
  list.add("model.norm.weight", {d});
  if (!c.tie_word_embeddings) list.add("lm_head.weight", {c.vocab_size, d});
  return list.status();
}

}  // namespace engram
