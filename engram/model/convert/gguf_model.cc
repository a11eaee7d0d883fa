// GGUF files of the architecture llama, as llama.cpp's converter writes them: its keys, its names, and its order of the
// rows of queries and keys, whose rotary pairs stand side by side (ours stand half a head apart).
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <set>

#include "engram/core/checked_math.h"
#include "engram/core/json.h"
#include "engram/formats/ggml_rows.h"
#include "engram/model/convert/model_tensors.h"
#include "engram/model/convert/source_model.h"

namespace engram {
namespace {

constexpr const char* kLlama = "llama.";

// The llama.* keys: each is asked for by name, so that one that nobody asks for is found.
class Keys {
 public:
  explicit Keys(const GgufFile& file) : file_(file) {}
  bool has(const std::string& key) {
    known_.insert(kLlama + key);
    return file_.has(kLlama + key);
  }
  // fallback < 0: the key must be there.
  Status size(const std::string& key, int64_t fallback, int* out) {
    int64_t value = fallback;
    if (has(key) || fallback < 0) {
      ENGRAM_ASSIGN_OR_RETURN(value, file_.integer(kLlama + key));
    }
    if (value < 0 || value > INT32_MAX)
      return invalid_argument("{}: key {}{} is {}, wanted 0 to 2^31 - 1", file_.path(), kLlama, key, value);
    *out = static_cast<int>(value);
    return {};
  }
  Status number(const std::string& key, double* out) {
    if (!has(key)) return {};
    ENGRAM_ASSIGN_OR_RETURN(const double value, file_.number(kLlama + key));
    // A float's shortest decimal is what was meant: 1e-05 and not 9.999999747378752e-06.
    *out = std::strtod(fmt::format("{}", static_cast<float>(value)).c_str(), nullptr);
    return {};
  }
  Status wrong(const std::string& key, const std::string& got, const std::string& wanted) const {
    return invalid_argument("{}: key {}{} is {}, wanted {}", file_.path(), kLlama, key, got, wanted);
  }
  Status finish() const {
    for (const auto& [key, value] : file_.values()) {
      if (key.starts_with(kLlama) && !known_.contains(key))
        return invalid_argument("{}: key {}: it may change what the model computes, and there is no place for it here",
                                file_.path(), quote_text(key));
    }
    return {};
  }

 private:
  const GgufFile& file_;
  std::set<std::string, std::less<>> known_;
};

Status read_scaling(const GgufFile& file, Keys& keys, ModelConfig& c) {
  std::string type = "none";
  if (keys.has("rope.scaling.type")) {
    ENGRAM_ASSIGN_OR_RETURN(type, file.string("llama.rope.scaling.type"));
  }
  keys.has("rope.scaling.finetuned");
  RopeScaling& r = c.rope_scaling;
  double factor = 1, attention_factor = 1;
  ENGRAM_RETURN_IF_ERROR(keys.number("rope.scaling.factor", &factor));
  ENGRAM_RETURN_IF_ERROR(keys.number("rope.scaling.attn_factor", &attention_factor));
  ENGRAM_RETURN_IF_ERROR(keys.number("rope.scaling.yarn_beta_fast", &r.beta_fast));
  ENGRAM_RETURN_IF_ERROR(keys.number("rope.scaling.yarn_beta_slow", &r.beta_slow));
  ENGRAM_RETURN_IF_ERROR(keys.size("rope.scaling.original_context_length", 0, &r.original_max_position_embeddings));
  if (type == "none" || factor == 1) return {};
  if (attention_factor != 1) return keys.wrong("rope.scaling.attn_factor", fmt::format("{}", attention_factor), "1");
  if (type != "linear" && type != "yarn")
    return keys.wrong("rope.scaling.type", quote_text(type), "none, linear or yarn");
  r.type = type == "linear" ? RopeType::kLinear : RopeType::kYarn;
  r.factor = factor;
  r.mscale = 1;  // cos and sin by 0.1 ln factor + 1
  r.mscale_all_dim = 0;
  return {};
}

// Llama 3.1's scaling stands in the file as one divisor of each frequency. Its parameters are public constants; a file
// whose divisors they do not give is refused.
Status read_frequency_factors(const GgufFile& file, ModelConfig& c) {
  const auto at = file.tensors().find("rope_freqs.weight");
  if (at == file.tensors().end()) return {};
  const GgufTensor& tensor = at->second;
  const int64_t half = c.head_dim / 2;
  if (tensor.type != kGgmlF32 || tensor.shape != std::vector<int64_t>{half} ||
      static_cast<int64_t>(tensor.bytes.size()) / 4 < half)
    return invalid_argument("{}: tensor rope_freqs.weight: got type {} and shape {}, wanted F32 [{}]", file.path(),
                            tensor.type, shape_text(tensor.shape), half);
  std::vector<float> divisors(static_cast<size_t>(half));
  decode_ggml_row(*find_ggml_type(kGgmlF32), tensor.bytes.data(), half, divisors.data());
  RopeScaling r;
  r.type = RopeType::kLlama3;
  r.factor = divisors.back();
  r.original_max_position_embeddings = 8192;
  for (int64_t i = 0; i < half; ++i) {
    const double frequency = std::pow(c.rope_theta, -2.0 * static_cast<double>(i) / c.head_dim);
    const double turns = r.original_max_position_embeddings * frequency / (2 * 3.14159265358979323846);
    double wanted = 1;
    if (turns < r.low_freq_factor) {
      wanted = r.factor;
    } else if (turns <= r.high_freq_factor) {
      const double kept = (turns - r.low_freq_factor) / (r.high_freq_factor - r.low_freq_factor);
      wanted = 1 / ((1 - kept) / r.factor + kept);
    }
    const double got = divisors[static_cast<size_t>(i)];
    if (!(std::abs(got - wanted) <= 1e-4 * wanted))
      return invalid_argument("{}: tensor rope_freqs.weight: got {} at {}, wanted {} (Llama 3.1's scaling by {})",
                              file.path(), got, i, wanted, r.factor);
  }
  c.rope_scaling = r;
  return {};
}

Result<ModelConfig> read_config(const GgufFile& file) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string architecture, file.string("general.architecture"));
  if (architecture != "llama")
    return invalid_argument("{}: general.architecture is {}, wanted llama", file.path(), quote_text(architecture));
  Keys keys(file);
  ModelConfig c;
  c.attention = AttentionKind::kGqa;
  c.ffn = FfnKind::kDense;
  c.initializer_range = 0.02;
  ENGRAM_RETURN_IF_ERROR(keys.size("embedding_length", -1, &c.hidden_size));
  ENGRAM_RETURN_IF_ERROR(keys.size("block_count", -1, &c.num_hidden_layers));
  ENGRAM_RETURN_IF_ERROR(keys.size("context_length", -1, &c.max_position_embeddings));
  ENGRAM_RETURN_IF_ERROR(keys.size("feed_forward_length", -1, &c.intermediate_size));
  ENGRAM_RETURN_IF_ERROR(keys.size("attention.head_count", -1, &c.num_attention_heads));
  if (c.num_attention_heads < 1) return keys.wrong("attention.head_count", "0", "1 or more");
  ENGRAM_RETURN_IF_ERROR(keys.size("attention.head_count_kv", c.num_attention_heads, &c.num_key_value_heads));
  ENGRAM_RETURN_IF_ERROR(keys.size("attention.key_length", c.hidden_size / c.num_attention_heads, &c.head_dim));
  for (const char* key : {"attention.value_length", "rope.dimension_count"}) {
    int columns = 0;
    ENGRAM_RETURN_IF_ERROR(keys.size(key, c.head_dim, &columns));
    if (columns != c.head_dim) return keys.wrong(key, fmt::to_string(columns), fmt::to_string(c.head_dim));
  }
  int experts = 0;
  keys.has("expert_used_count");
  ENGRAM_RETURN_IF_ERROR(keys.size("expert_count", 0, &experts));
  if (experts != 0) return keys.wrong("expert_count", fmt::to_string(experts), "0 (a dense model)");
  if (!keys.has("attention.layer_norm_rms_epsilon"))
    return invalid_argument("{}: key llama.attention.layer_norm_rms_epsilon is missing", file.path());
  ENGRAM_RETURN_IF_ERROR(keys.number("attention.layer_norm_rms_epsilon", &c.rms_norm_eps));
  ENGRAM_RETURN_IF_ERROR(keys.number("rope.freq_base", &c.rope_theta));
  ENGRAM_RETURN_IF_ERROR(read_scaling(file, keys, c));

  const auto embedding = file.tensors().find("token_embd.weight");
  if (embedding == file.tensors().end() || embedding->second.shape.size() != 2)
    return invalid_argument("{}: no tensor token_embd.weight of two dimensions", file.path());
  const int64_t rows = embedding->second.shape[1];
  if (rows > INT32_MAX) return invalid_argument("{}: token_embd.weight has {} rows", file.path(), rows);
  ENGRAM_RETURN_IF_ERROR(keys.size("vocab_size", rows, &c.vocab_size));
  if (c.vocab_size != rows) return keys.wrong("vocab_size", fmt::to_string(c.vocab_size), fmt::to_string(rows));
  c.tie_word_embeddings = !file.tensors().contains("output.weight");
  c.qkv_bias = file.tensors().contains("blk.0.attn_q.bias");
  ENGRAM_RETURN_IF_ERROR(keys.finish());
  ENGRAM_RETURN_IF_ERROR(c.validate().with_context(file.path()));
  ENGRAM_RETURN_IF_ERROR(read_frequency_factors(file, c));
  ENGRAM_RETURN_IF_ERROR(c.validate().with_context(file.path()));
  return c;
}

// "model.layers.3.self_attn.q_proj.weight" -> "blk.3.attn_q.weight".
std::string gguf_name(const std::string& name) {
  static const std::vector<std::pair<std::string_view, std::string_view>> parts = {
      {"model.embed_tokens.", "token_embd."},
      {"model.norm.", "output_norm."},
      {"lm_head.", "output."},
      {"model.layers.", "blk."},
      {"input_layernorm.", "attn_norm."},
      {"post_attention_layernorm.", "ffn_norm."},
      {"self_attn.q_proj.", "attn_q."},
      {"self_attn.k_proj.", "attn_k."},
      {"self_attn.v_proj.", "attn_v."},
      {"self_attn.o_proj.", "attn_output."},
      {"mlp.gate_proj.", "ffn_gate."},
      {"mlp.up_proj.", "ffn_up."},
      {"mlp.down_proj.", "ffn_down."}};
  std::string out = name;
  for (const auto& [ours, theirs] : parts) {
    if (const size_t at = out.find(ours); at != std::string::npos) out.replace(at, ours.size(), theirs);
  }
  return out;
}

// Adds the bytes that the file holds of it to `stored_bytes`.
Result<SourceTensor> open_tensor(const GgufFile& file, const ModelConfig& c, TensorSpec spec, int64_t& stored_bytes) {
  const std::string name = gguf_name(spec.name);
  const auto at = file.tensors().find(name);
  if (at == file.tensors().end()) return invalid_argument("{}: no tensor {}", file.path(), name);
  const GgufTensor& stored = at->second;
  const std::vector<int64_t> shape(stored.shape.rbegin(), stored.shape.rend());
  if (shape != spec.shape)
    return invalid_argument("{}: tensor {}: got shape {}, wanted {}", file.path(), name, shape_text(shape),
                            shape_text(spec.shape));
  const GgmlType* type = find_ggml_type(stored.type);
  if (type == nullptr)
    return invalid_argument(
        "{}: tensor {}: got type {}, wanted F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 or "
        "Q2_K to Q6_K",
        file.path(), name, stored.type);
  const int64_t width = spec.shape.back(), rows = spec.num_elements() / width;
  const int64_t bytes = saturating_product({rows, type->row_bytes(width)});
  if (width % type->block_columns != 0 || bytes > static_cast<int64_t>(stored.bytes.size()))
    return data_loss("{}: tensor {}: {} bytes of {} with rows of {}, the file holds {}", file.path(), name, bytes,
                     type->name, width, stored.bytes.size());
  const bool same = stored.type == kGgmlF16 || stored.type == kGgmlBF16 || stored.type == kGgmlF32;
  spec.dtype = stored.type == kGgmlF16 ? DType::kF16 : stored.type == kGgmlBF16 ? DType::kBF16 : DType::kF32;

  stored_bytes += bytes;
  SourceTensor tensor;
  tensor.spec = spec;
  // A row here is one place along the first dimension: an element of a vector.
  const bool vector = spec.shape.size() == 1;
  const int64_t columns = vector ? 1 : width, source_bytes = vector ? type->block_bytes : type->row_bytes(width);
  const int64_t out_bytes = columns * static_cast<int64_t>(dtype_size(spec.dtype));
  const bool turned = name.find(".attn_q.") != std::string::npos || name.find(".attn_k.") != std::string::npos;
  tensor.read = [=, from = stored.bytes.data(), head = int64_t{c.head_dim}](int64_t begin, int64_t end,
                                                                            std::byte* out) {
    for (int64_t row = begin; row < end; ++row, out += out_bytes) {
      // Theirs of ours: within a head, pair j's halves are at 2 j and 2 j + 1.
      const int64_t in_head = row % head, pair = in_head % (head / 2), half = in_head / (head / 2);
      const std::byte* source = from + (turned ? row - in_head + 2 * pair + half : row) * source_bytes;
      if (same) {
        std::copy_n(source, out_bytes, out);
      } else {
        decode_ggml_row(*type, source, columns, reinterpret_cast<float*>(out));
      }
    }
  };
  return tensor;
}

}  // namespace

Result<SourceModel> read_gguf_model(const GgufFile& file) {
  SourceModel out;
  ENGRAM_ASSIGN_OR_RETURN(out.file.config, read_config(file));
  const ModelConfig& c = out.file.config;
  std::set<std::string> wanted = {"rope_freqs.weight"};
  int64_t stored_bytes = 0, held_bytes = 0;
  ENGRAM_RETURN_IF_ERROR(visit_model_tensors(c, [&](TensorSpec spec) -> Status {
    wanted.insert(gguf_name(spec.name));
    ENGRAM_ASSIGN_OR_RETURN(SourceTensor tensor, open_tensor(file, c, std::move(spec), stored_bytes));
    out.tensors.push_back(std::move(tensor));
    return {};
  }));
  for (const auto& [name, tensor] : file.tensors()) {
    if (!wanted.contains(name))
      return invalid_argument("{}: tensor {}: there is no place for it in a llama model here", file.path(),
                              quote_text(name, kTensorNameBytes));
    held_bytes = std::max(held_bytes, static_cast<int64_t>(tensor.bytes.size()));
  }
  if (stored_bytes > held_bytes)
    return data_loss("{}: its tensors have {} bytes in all, the file holds {}: some overlap", file.path(), stored_bytes,
                     held_bytes);
  const auto token = [&](const char* key) -> Result<int32_t> {
    if (!file.has(key)) return -1;
    ENGRAM_ASSIGN_OR_RETURN(const int64_t id, file.integer(key));
    if (id < 0 || id >= c.vocab_size)
      return invalid_argument("{}: key {} is {}, wanted 0 to {}", file.path(), key, id, c.vocab_size - 1);
    return static_cast<int32_t>(id);
  };
  ENGRAM_ASSIGN_OR_RETURN(out.file.special.bos, token("tokenizer.ggml.bos_token_id"));
  ENGRAM_ASSIGN_OR_RETURN(out.file.special.eos, token("tokenizer.ggml.eos_token_id"));
  for (const char* key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    ENGRAM_ASSIGN_OR_RETURN(const int32_t id, token(key));
    if (id >= 0 && !out.file.special.ends_text(id)) out.file.special.more_eos.push_back(id);
  }
  if (file.has("tokenizer.chat_template")) {
    ENGRAM_ASSIGN_OR_RETURN(out.file.chat_template, file.string("tokenizer.chat_template"));
  }
  return out;
}

}  // namespace engram
