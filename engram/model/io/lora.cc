#include "engram/model/io/lora.h"

#include <algorithm>
#include <set>

#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/formats/safetensors.h"
#include "engram/model/io/checkpoint_names.h"
#include "engram/model/io/tensor_file.h"
#include "engram/model/layers/norm.h"

namespace engram {
namespace {

constexpr char kPrefix[] = "base_model.model.";  // PEFT's, before the model's own names
constexpr char kWeight[] = ".weight";

// A projection as a file knows it: some rows of a Linear.
struct Projection {
  std::string name;   // model.layers.0.self_attn.q_proj
  std::string place;  // model.layers.0.self_attn.qkv_proj: its module
  LinearImpl* linear = nullptr;
  Range rows;
  std::string target() const { return name.substr(name.find_last_of('.') + 1); }
};

std::vector<Projection> projections(const TransformerImpl& model) {
  std::vector<Projection> out;
  for (const auto& item : model.named_modules("", /*include_self=*/false)) {
    auto* linear = dynamic_cast<LinearImpl*>(item.value().get());
    if (linear == nullptr) continue;
    int64_t begin = 0;
    for (const auto& [part, rows] : stored_parts(model.config(), item.key() + kWeight, linear->weight.size(0))) {
      out.push_back({part.substr(0, part.size() - (sizeof(kWeight) - 1)), item.key(), linear, {begin, begin + rows}});
      begin += rows;
    }
  }
  return out;
}

// The parameters of add_lora() under PEFT's names.
std::vector<StreamedTensor> lora_tensors(const TransformerImpl& model) {
  std::vector<StreamedTensor> out;
  const auto parameters = model.named_parameters();
  for (const Projection& projection : projections(model)) {
    for (const char* matrix : {"lora_A", "lora_B"}) {
      const std::string own = fmt::format("{}.{}.{}", projection.place, projection.target(), matrix);
      if (const torch::Tensor* found = parameters.find(own))
        out.push_back(whole_tensor(fmt::format("{}{}.{}.weight", kPrefix, projection.name, matrix), found->detach()));
    }
  }
  return out;
}

// Exactly these must be in the file; on an error none has changed.
Status fill_from_adapter(Env& env, const std::string& directory, const std::vector<StreamedTensor>& wanted) {
  ENGRAM_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::open(env, join_path(directory, kAdapterFile)));
  std::set<std::string> names;
  for (const StreamedTensor& tensor : wanted) {
    names.insert(tensor.name);
    ENGRAM_ASSIGN_OR_RETURN(const TensorView view, file.find(tensor.name));
    ENGRAM_RETURN_IF_ERROR(
        check_tensor(view, file.path(), tensor.name, {DType::kF32, DType::kBF16, DType::kF16}, tensor.shape));
  }
  for (const auto& [name, view] : file.tensors())
    if (!names.contains(name))
      return invalid_argument("{}: got the tensor {}, which the model has no place for", file.path(),
                              quote_text(name, kTensorNameBytes));
  for (const StreamedTensor& tensor : wanted) fill_tensor(file.tensors().at(tensor.name), tensor);
  return file.check_unchanged();
}

Result<LoraConfig> read_adapter_config(Env& env, const std::string& directory) {
  const std::string path = join_path(directory, kAdapterConfigFile);
  ENGRAM_ASSIGN_OR_RETURN(const nlohmann::json json, read_json_file(env, path));
  LoraConfig config;
  std::string type;
  Fields fields(json, path);
  fields.need("peft_type", type);
  fields.need("r", config.rank, 1, 1 << 16);
  fields.need("lora_alpha", config.alpha);
  fields.need("target_modules", config.targets);
  bool rslora = false;  // another scale
  fields("use_rslora", rslora);
  ENGRAM_RETURN_IF_ERROR(fields.status());
  if (type != "LORA") return invalid_argument("{}: peft_type: got {}, wanted \"LORA\"", path, quote_text(type));
  if (rslora) return invalid_argument("{}: use_rslora: got true, wanted false", path);
  return config;
}

}  // namespace

void add_lora(TransformerImpl& model, const LoraConfig& config) {
  const double scale = config.alpha / static_cast<double>(config.rank);
  for (const Projection& projection : projections(model))
    if (std::ranges::count(config.targets, projection.target()) > 0)
      projection.linear->add_low_rank(projection.target(), projection.rows, config.rank, scale);
}

Status save_lora(Env& env, const std::string& directory, const TransformerImpl& model, const LoraConfig& config) {
  const std::vector<StreamedTensor> tensors = lora_tensors(model);
  std::vector<TensorSpec> specs;
  for (const StreamedTensor& tensor : tensors) specs.push_back({tensor.name, DType::kF32, tensor.shape});
  ENGRAM_ASSIGN_OR_RETURN(
      auto writer, SafetensorsWriter::create(env, join_path(directory, kAdapterFile), specs, {{"format", "pt"}}));
  for (const StreamedTensor& tensor : tensors) ENGRAM_RETURN_IF_ERROR(append_tensor(tensor, torch::kFloat, *writer));
  ENGRAM_RETURN_IF_ERROR(writer->finish());
  nlohmann::ordered_json json;
  json["peft_type"] = "LORA";
  json["task_type"] = "CAUSAL_LM";
  json["base_model_name_or_path"] = nullptr;
  json["r"] = config.rank;
  json["lora_alpha"] = config.alpha;
  json["lora_dropout"] = 0.0;
  json["bias"] = "none";
  json["target_modules"] = config.targets;
  return write_file_atomic(env, join_path(directory, kAdapterConfigFile), json.dump(2) + "\n");
}

Status load_lora(Env& env, const std::string& directory, TransformerImpl& model) {
  return fill_from_adapter(env, directory, lora_tensors(model));
}

Status merge_lora(Env& env, const std::string& directory, TransformerImpl& model) {
  if (!env.file_exists(join_path(directory, kAdapterConfigFile))) {
    if (!env.file_exists(join_path(directory, kAdapterFile))) return {};
    return not_found("{}: no such file, and {} is there", join_path(directory, kAdapterConfigFile), kAdapterFile);
  }
  ENGRAM_ASSIGN_OR_RETURN(const LoraConfig config, read_adapter_config(env, directory));
  struct Change {
    Projection projection;
    torch::Tensor a, b;
  };
  std::vector<Change> changes;
  std::vector<StreamedTensor> tensors;
  for (const Projection& projection : projections(model)) {
    if (std::ranges::count(config.targets, projection.target()) == 0) continue;
    if (config.rank > projection.linear->weight.size(1))  // and a hostile one asks for no more memory than the model
      return invalid_argument("{}: r: got {}, wanted at most {}, the columns of {}",
                              join_path(directory, kAdapterConfigFile), config.rank, projection.linear->weight.size(1),
                              projection.name);
    const std::string name = kPrefix + projection.name;
    Change change{projection, torch::empty({config.rank, projection.linear->weight.size(1)}),
                  torch::empty({projection.rows.size(), config.rank})};
    tensors.push_back(whole_tensor(name + ".lora_A.weight", change.a));
    tensors.push_back(whole_tensor(name + ".lora_B.weight", change.b));
    changes.push_back(std::move(change));
  }
  ENGRAM_RETURN_IF_ERROR(fill_from_adapter(env, directory, tensors));
  const torch::NoGradGuard no_grad;
  for (const auto& [projection, a, b] : changes)
    projection.linear->weight.narrow(0, projection.rows.begin, projection.rows.size())
        .add_(at::mm(b, a), config.alpha / static_cast<double>(config.rank));
  return {};
}

}  // namespace engram
