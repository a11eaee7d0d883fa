#include "engram/model/io/parameter_groups.h"

#include <numeric>

#include "engram/model/layers/attention.h"
#include "engram/model/layers/engram.h"
#include "engram/model/layers/hyper_connection.h"
#include "engram/model/layers/moe.h"
#include "engram/model/layers/norm.h"
#include "engram/model/layers/over_encoding.h"

namespace engram {
namespace {

bool contains(const std::string& name, const char* part) { return name.find(part) != std::string::npos; }

bool is_norm(const std::string& name) { return contains(name, "norm"); }

// Heights of the matrices stacked in a Muon weight; empty: the parameter belongs to AdamW.
std::vector<int64_t> matrix_rows(const ModelConfig& c, const std::string& name, const torch::Tensor& tensor) {
  const int64_t rows = tensor.dim() >= 2 ? tensor.size(-2) : 0;
  if (contains(name, "embed_tokens.") || contains(name, "lm_head.") || contains(name, "mlp.gate.") ||
      contains(name, "_hc.") || contains(name, "hc_head.") || contains(name, "engram.conv.") || is_norm(name) ||
      tensor.dim() < 2)
    return {};
  if (contains(name, "self_attn.q_kv_a_proj.")) {
    const int64_t latent = c.kv_lora_rank + c.qk_rope_head_dim;  // one matrix in DeepSeek's code, kv_a_proj_with_mqa
    return {rows - latent, latent};
  }
  if (contains(name, "self_attn.qkv_proj.")) {
    const int64_t kv = int64_t{c.num_key_value_heads} * c.head_dim;
    return {rows - 2 * kv, kv, kv};
  }
  if (contains(name, "gate_up")) return {rows / 2, rows / 2};
  if (contains(name, "engram.wkv."))
    return std::vector<int64_t>(static_cast<size_t>(rows / c.hidden_size), c.hidden_size);
  return {rows};
}

// The weights of AdamW that multiply activations: embedding, head, routers and the hyper-connections' fn.
bool decays(const std::string& name, const torch::Tensor& tensor) {
  return tensor.dim() >= 2 && !is_norm(name) && !contains(name, "engram.conv.");
}

// The role of what `module` holds itself, when it has one; else that of the module around it.
ParameterRole role_within(const torch::nn::Module& module, const std::string& child, ParameterRole around) {
  if (dynamic_cast<const EngramImpl*>(&module) || dynamic_cast<const OverEncodingImpl*>(&module))
    return ParameterRole::kMemory;
  if (dynamic_cast<const AttentionImpl*>(&module)) return ParameterRole::kAttention;
  if (dynamic_cast<const MoeImpl*>(&module)) return child == "gate" ? ParameterRole::kRouter : ParameterRole::kFfn;
  if (dynamic_cast<const DenseFfnImpl*>(&module)) return ParameterRole::kFfn;
  if (dynamic_cast<const HyperConnectionImpl*>(&module) || dynamic_cast<const HyperHeadImpl*>(&module))
    return ParameterRole::kHyperConnection;
  if (dynamic_cast<const LowRankImpl*>(&module)) return ParameterRole::kLora;
  if (dynamic_cast<const RmsNormImpl*>(&module)) return ParameterRole::kNorm;
  return around;
}

// In the order of named_parameters(): those of a module, then its children's.
void add_roles(const torch::nn::Module& module, ParameterRole around, std::vector<ParameterRole>& roles) {
  for ([[maybe_unused]] const auto& item : module.named_parameters(/*recurse=*/false))
    roles.push_back(role_within(module, item.key(), around));
  for (const auto& child : module.named_children()) {
    ParameterRole role = role_within(module, child.key(), around);
    if (child.key() == "embed_tokens") role = ParameterRole::kEmbedding;
    if (child.key() == "lm_head") role = ParameterRole::kHead;
    add_roles(*child.value(), role, roles);
  }
}

}  // namespace

std::vector<ParameterInfo> parameter_groups(const TransformerImpl& model) {
  std::vector<ParameterInfo> groups;
  std::vector<ParameterRole> roles;
  add_roles(model, ParameterRole::kNorm, roles);
  for (const auto& item : model.named_parameters()) {
    ParameterInfo info;
    info.role = roles.at(groups.size());
    info.name = item.key();
    info.tensor = item.value();
    if (info.role != ParameterRole::kLora) info.row_splits = matrix_rows(model.config(), info.name, info.tensor);
    info.kind = info.row_splits.empty() ? ParameterKind::kVector : ParameterKind::kMatrix;
    if (model.expert_ranks() && contains(info.name, ".mlp.experts."))
      info.begins = model.expert_ranks()->first_experts(model.config().n_routed_experts);
    info.decay = decays(info.name, info.tensor);
    if (info.kind == ParameterKind::kMatrix) {
      const int64_t sum = std::accumulate(info.row_splits.begin(), info.row_splits.end(), int64_t{0});
      ENGRAM_CHECK(sum == info.tensor.size(-2), "{}: splits add up to {}, rows {}", info.name, sum,
                   info.tensor.size(-2));
    }
    groups.push_back(std::move(info));
  }
  return groups;
}

}  // namespace engram
