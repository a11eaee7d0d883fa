#include "engram/train/train_state.h"

#include <ATen/CPUGeneratorImpl.h>

#include <cstring>
#include <mutex>

#include "engram/core/json.h"
#include "engram/formats/safetensors.h"

namespace engram {
namespace {

constexpr char kOptimizerFile[] = "optimizer.safetensors";
constexpr char kStateFile[] = "state.json";
constexpr char kRecipeFile[] = "recipe.toml";
constexpr char kRandomName[] = "random.cpu";
constexpr int64_t kFormat = 1;

torch::Tensor random_state() {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  std::lock_guard lock(generator.mutex());
  return generator.get_state();
}

void set_random_state(const torch::Tensor& state) {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  std::lock_guard lock(generator.mutex());
  generator.set_state(state);
}

DType stored_dtype(const torch::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case torch::kFloat32: return DType::kF32;
    case torch::kInt32: return DType::kI32;
    case torch::kUInt8: return DType::kU8;
    default: TORCH_CHECK(false, "train state: no stored form for ", tensor.scalar_type());
  }
}

}  // namespace

NamedTensors train_state_tensors(const Optimizer& optimizer, const std::vector<TrainableTable*>& tables) {
  NamedTensors tensors = optimizer.state();
  for (size_t layer = 0; layer < tables.size(); ++layer)
    for (auto& [name, tensor] : tables[layer]->optimizer_state())
      tensors.emplace_back(fmt::format("table.{}.{}", layer, name), tensor);
  return tensors;
}

Status save_train_state(Env& env, const std::string& directory, const NamedTensors& tensors,
                        const std::vector<TrainableTable*>& tables, const TrainPosition& position,
                        const std::string& recipe_toml) {
  NamedTensors all = tensors;
  all.emplace_back(kRandomName, random_state());
  std::vector<TensorSpec> specs;
  for (const auto& [name, tensor] : all) specs.push_back({name, stored_dtype(tensor), tensor.sizes().vec()});
  ENGRAM_ASSIGN_OR_RETURN(
      auto writer, SafetensorsWriter::create(env, join_path(directory, kOptimizerFile), specs, {{"format", "pt"}}));
  for (const auto& [name, tensor] : all) {
    const torch::Tensor bytes = tensor.detach().to(torch::kCPU).contiguous();
    ENGRAM_RETURN_IF_ERROR(writer->append({static_cast<const std::byte*>(bytes.data_ptr()), bytes.nbytes()}));
  }
  ENGRAM_RETURN_IF_ERROR(writer->finish());

  nlohmann::ordered_json state;
  state["format"] = kFormat;
  state["step"] = position.step;
  state["next_batch"] = position.next_batch;
  state["tokens"] = position.tokens;
  state["vocabulary_digest"] = position.vocabulary_digest;
  state["train_tokens"] = position.train_tokens;
  state["tables"] = nlohmann::ordered_json::array();
  for (const TrainableTable* table : tables)
    state["tables"].push_back({{"num_rows", table->num_rows()}, {"row_dim", table->row_dim()}});
  ENGRAM_RETURN_IF_ERROR(write_file_atomic(env, join_path(directory, kStateFile), state.dump(2) + "\n"));
  return write_file_atomic(env, join_path(directory, kRecipeFile), recipe_toml);
}

Result<TrainPosition> load_position(Env& env, const std::string& directory, const TrainPosition& wanted) {
  const std::string path = join_path(directory, kStateFile);
  ENGRAM_ASSIGN_OR_RETURN(const nlohmann::json state, read_json_file(env, path));
  ENGRAM_ASSIGN_OR_RETURN(const int64_t format, json_integer(state, "format", path));
  if (format != kFormat) return invalid_argument("{}: format: got {}, wanted {}", path, format, kFormat);
  TrainPosition position;
  ENGRAM_ASSIGN_OR_RETURN(position.step, json_integer(state, "step", path, 1));
  ENGRAM_ASSIGN_OR_RETURN(position.next_batch, json_integer(state, "next_batch", path, 1));
  ENGRAM_ASSIGN_OR_RETURN(position.tokens, json_integer(state, "tokens", path, 0));
  ENGRAM_ASSIGN_OR_RETURN(position.vocabulary_digest, json_string(state, "vocabulary_digest", path));
  ENGRAM_ASSIGN_OR_RETURN(position.train_tokens, json_integer(state, "train_tokens", path, 0));
  if (position.vocabulary_digest != wanted.vocabulary_digest)
    return make_status(StatusCode::kFailedPrecondition,
                       "{}: vocabulary_digest: got {}, wanted {} of the recipe's tokenizer", path,
                       quote_text(position.vocabulary_digest, 64), wanted.vocabulary_digest);
  if (position.train_tokens != wanted.train_tokens)
    return make_status(StatusCode::kFailedPrecondition,
                       "{}: train_tokens: got {}, wanted {}: the training shards are not those of the run", path,
                       position.train_tokens, wanted.train_tokens);
  return position;
}

Status load_train_state(Env& env, const std::string& directory, const NamedTensors& tensors) {
  const std::string path = join_path(directory, kOptimizerFile);
  ENGRAM_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::open(env, path));
  NamedTensors all = tensors;
  const torch::Tensor random = random_state().clone();
  all.emplace_back(kRandomName, random);
  if (file.tensors().size() != all.size())
    return invalid_argument("{}: got {} tensors, wanted {}", path, file.tensors().size(), all.size());
  for (const auto& [name, tensor] : all) {
    ENGRAM_ASSIGN_OR_RETURN(const TensorView view, file.find(name));
    ENGRAM_RETURN_IF_ERROR(check_tensor(view, path, name, {stored_dtype(tensor)}, tensor.sizes().vec()));
  }
  const torch::NoGradGuard no_grad;
  for (const auto& [name, tensor] : all) {
    const TensorView view = *file.find(name);
    torch::Tensor stored = torch::empty(tensor.sizes(), tensor.options().device(torch::kCPU));
    if (!view.bytes.empty()) std::memcpy(stored.data_ptr(), view.bytes.data(), view.bytes.size());
    torch::Tensor(tensor).copy_(stored);
  }
  ENGRAM_RETURN_IF_ERROR(file.check_unchanged());
  set_random_state(random);
  return Status();
}

}  // namespace engram
