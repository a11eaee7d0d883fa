#include "engram/model/io/checkpoint_names.h"

#include <array>
#include <string_view>

#include "engram/core/status.h"
#include "engram/model/io/spread_tensor.h"

namespace engram {
namespace {

constexpr std::array<std::string_view, 6> kFused = {".q_kv_a_proj.weight",  ".qkv_proj.weight", ".qkv_proj.bias",
                                                    ".gate_up_proj.weight", ".experts.gate_up", ".experts.down"};

// Cuts a suffix off, true when it was there.
bool cut_suffix(std::string& name, std::string_view suffix) {
  if (!name.ends_with(suffix)) return false;
  name.resize(name.size() - suffix.size());
  return true;
}

// Calls add(name, view) for the rows of a stacked matrix, top to bottom.
template <typename Add>
void add_rows(const torch::Tensor& stacked, const std::vector<std::pair<std::string, int64_t>>& parts, const Add& add) {
  int64_t begin = 0;
  for (const auto& [name, rows] : parts) {
    add(name, stacked.narrow(0, begin, rows));
    begin += rows;
  }
  ENGRAM_CHECK(begin == stacked.size(0), "{} rows named, {} there", begin, stacked.size(0));
}

// tensor: [E, ..], or the experts of this rank.
void add_experts(std::vector<StoredTensor>& out, const TransformerImpl& model, const std::string& prefix,
                 const torch::Tensor& tensor, bool gate_up) {
  const std::optional<ExpertRanks>& ranks = model.expert_ranks();
  const int64_t experts = model.config().n_routed_experts, rows = tensor.size(1);
  const std::vector<int64_t> first = ranks ? ranks->first_experts(experts) : std::vector<int64_t>{0, experts};
  for (int64_t e = 0, owner = 0; e < experts; ++e) {
    while (e >= first[static_cast<size_t>(owner) + 1]) ++owner;
    const bool here = !ranks || owner == ranks->ranks->rank();
    const torch::Tensor expert = here ? tensor[e - first[static_cast<size_t>(owner)]]
                                      : torch::empty({rows, tensor.size(2)}, tensor.options().device(torch::kMeta));
    const auto add = [&](const std::string& name, const torch::Tensor& view) {
      if (ranks) {
        Communicator& all = *ranks->ranks;
        const std::vector<int64_t> begins = owned_rows(all.size(), static_cast<int>(owner), view.size(0));
        out.push_back({spread_tensor(all, Channel::kExpert, name, view, begins), /*keep_fp32=*/false, /*spread=*/true});
      } else {
        out.push_back({whole_tensor(name, view)});
      }
    };
    const std::string name = fmt::format("{}.experts.{}", prefix, e);
    if (gate_up) {
      add_rows(expert, {{name + ".gate_proj.weight", rows / 2}, {name + ".up_proj.weight", rows / 2}}, add);
    } else {
      add(name + ".down_proj.weight", expert);
    }
  }
}

// V4.1's names for what it has: wkv.weight, q_weight, k_weight; the module's own for the rest.
std::string engram_name(std::string name) {
  if (cut_suffix(name, "query_norm.weight")) return name + "q_weight";
  if (cut_suffix(name, "key_norm.weight")) return name + "k_weight";
  return name;
}

void add_model_tensor(std::vector<StoredTensor>& out, const TransformerImpl& model, std::string name,
                      const torch::Tensor& tensor) {
  if (name.ends_with(".lora_A") || name.ends_with(".lora_B")) return;  // lora.h
  for (const bool gate_up : {true, false})
    if (cut_suffix(name, gate_up ? ".experts.gate_up" : ".experts.down"))
      return add_experts(out, model, name, tensor, gate_up);
  add_rows(tensor, stored_parts(model.config(), name, tensor.size(0)),
           [&out](const std::string& part, const torch::Tensor& view) { out.push_back({whole_tensor(part, view)}); });
}

}  // namespace

std::vector<std::pair<std::string, int64_t>> stored_parts(const ModelConfig& c, std::string name, int64_t rows) {
  if (cut_suffix(name, ".q_kv_a_proj.weight")) {
    const int64_t latent = int64_t{c.kv_lora_rank} + c.qk_rope_head_dim;
    const char* query = c.q_lora_rank > 0 ? ".q_a_proj.weight" : ".q_proj.weight";
    return {{name + query, rows - latent}, {name + ".kv_a_proj_with_mqa.weight", latent}};
  }
  for (const std::string_view kind : {".weight", ".bias"}) {
    if (!cut_suffix(name, fmt::format(".qkv_proj{}", kind))) continue;
    const int64_t kv = int64_t{c.num_key_value_heads} * c.head_dim;
    return {{fmt::format("{}.q_proj{}", name, kind), rows - 2 * kv},
            {fmt::format("{}.k_proj{}", name, kind), kv},
            {fmt::format("{}.v_proj{}", name, kind), kv}};
  }
  if (cut_suffix(name, ".gate_up_proj.weight"))
    return {{name + ".gate_proj.weight", rows / 2}, {name + ".up_proj.weight", rows / 2}};
  return {{name, rows}};
}

StoredTensors stored_tensors(const TransformerImpl& model) {
  constexpr std::string_view kModule = "model.";
  torch::NoGradGuard no_grad;
  StoredTensors out;
  for (const auto& item : model.named_parameters()) {
    const std::string& name = item.key();
    const bool memory = name.find(".engram.") != std::string::npos || name.find(".over_encoding.") != std::string::npos;
    if (memory) {
      out.engram.push_back({whole_tensor(engram_name(name.substr(kModule.size())), item.value())});
    } else {
      add_model_tensor(out.model, model, name, item.value().detach());
    }
  }
  for (const auto& item : model.named_buffers())
    out.model.push_back({whole_tensor(item.key(), item.value()), /*keep_fp32=*/true});
  return out;
}

std::string table_name(const ModelConfig& config, int layer) {
  if (config.memory_at_input()) return "over_encoding.embed.weight";
  return fmt::format("layers.{}.engram.embed.weight", config.engram.layer_ids.at(static_cast<size_t>(layer)));
}

bool is_fused_name(const std::string& name) {
  for (std::string_view suffix : kFused)
    if (name.ends_with(suffix)) return true;
  return false;
}

}  // namespace engram
