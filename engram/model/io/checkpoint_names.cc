#include "engram/model/io/checkpoint_names.h"

#include <array>
#include <string_view>

#include "engram/core/status.h"

namespace engram {
namespace {

constexpr std::array<std::string_view, 5> kFused = {".q_kv_a_proj.weight", ".qkv_proj.weight", ".gate_up_proj.weight",
                                                    ".experts.gate_up", ".experts.down"};

// Cuts a suffix off, true when it was there.
bool cut_suffix(std::string& name, std::string_view suffix) {
  if (!name.ends_with(suffix)) return false;
  name.resize(name.size() - suffix.size());
  return true;
}

// The rows of a stacked matrix, top to bottom, as separate tensors.
void add_rows(std::vector<StoredTensor>& out, const torch::Tensor& stacked,
              const std::vector<std::pair<std::string, int64_t>>& parts) {
  int64_t begin = 0;
  for (const auto& [name, rows] : parts) {
    out.push_back({name, stacked.narrow(0, begin, rows)});
    begin += rows;
  }
  ENGRAM_CHECK(begin == stacked.size(0), "{} rows named, {} there", begin, stacked.size(0));
}

void add_experts(std::vector<StoredTensor>& out, const std::string& prefix, const torch::Tensor& tensor, bool gate_up) {
  for (int64_t e = 0; e < tensor.size(0); ++e) {
    const std::string expert = fmt::format("{}.experts.{}", prefix, e);
    if (gate_up) {
      const int64_t width = tensor.size(1) / 2;
      add_rows(out, tensor[e], {{expert + ".gate_proj.weight", width}, {expert + ".up_proj.weight", width}});
    } else {
      out.push_back({expert + ".down_proj.weight", tensor[e]});
    }
  }
}

// V4.1's names for what it has: wkv.weight, q_weight, k_weight; the module's own for the rest.
std::string engram_name(std::string name) {
  if (cut_suffix(name, "query_norm.weight")) return name + "q_weight";
  if (cut_suffix(name, "key_norm.weight")) return name + "k_weight";
  return name;
}

void add_model_tensor(std::vector<StoredTensor>& out, const ModelConfig& c, std::string name,
                      const torch::Tensor& tensor) {
  const std::string whole = name;
  if (cut_suffix(name, ".q_kv_a_proj.weight")) {
    const int64_t latent = int64_t{c.kv_lora_rank} + c.qk_rope_head_dim;
    const char* query = c.q_lora_rank > 0 ? ".q_a_proj.weight" : ".q_proj.weight";
    return add_rows(out, tensor,
                    {{name + query, tensor.size(0) - latent}, {name + ".kv_a_proj_with_mqa.weight", latent}});
  }
  if (cut_suffix(name, ".qkv_proj.weight")) {
    const int64_t kv = int64_t{c.num_key_value_heads} * c.head_dim;
    return add_rows(out, tensor,
                    {{name + ".q_proj.weight", tensor.size(0) - 2 * kv},
                     {name + ".k_proj.weight", kv},
                     {name + ".v_proj.weight", kv}});
  }
  if (cut_suffix(name, ".gate_up_proj.weight")) {
    const int64_t width = tensor.size(0) / 2;
    return add_rows(out, tensor, {{name + ".gate_proj.weight", width}, {name + ".up_proj.weight", width}});
  }
  if (cut_suffix(name, ".experts.gate_up")) return add_experts(out, name, tensor, /*gate_up=*/true);
  if (cut_suffix(name, ".experts.down")) return add_experts(out, name, tensor, /*gate_up=*/false);
  out.push_back({whole, tensor});
}

}  // namespace

StoredTensors stored_tensors(const TransformerImpl& model) {
  constexpr std::string_view kModule = "model.";
  torch::NoGradGuard no_grad;
  StoredTensors out;
  for (const auto& item : model.named_parameters()) {
    const std::string& name = item.key();
    const bool memory = name.find(".engram.") != std::string::npos || name.find(".over_encoding.") != std::string::npos;
    if (memory) {
      out.engram.push_back({engram_name(name.substr(kModule.size())), item.value().detach()});
    } else {
      add_model_tensor(out.model, model.config(), name, item.value().detach());
    }
  }
  for (const auto& item : model.named_buffers()) out.model.push_back({item.key(), item.value(), /*keep_fp32=*/true});
  return out;
}

std::string table_name(const ModelConfig& config, int layer) {
  if (config.memory == MemoryKind::kOverEncoding) return "over_encoding.embed.weight";
  return fmt::format("layers.{}.engram.embed.weight", config.engram.layer_ids.at(static_cast<size_t>(layer)));
}

bool is_fused_name(const std::string& name) {
  for (std::string_view suffix : kFused)
    if (name.ends_with(suffix)) return true;
  return false;
}

}  // namespace engram
