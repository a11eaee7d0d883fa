#include "engram/train/train_state.h"

#include <ATen/CPUGeneratorImpl.h>

#include <mutex>

#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/formats/safetensors.h"
#include "engram/model/io/checkpoint.h"

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

DType stored_dtype(torch::Dtype dtype) {
  switch (dtype) {
    case torch::kFloat32: return DType::kF32;
    case torch::kBFloat16: return DType::kBF16;
    case torch::kInt32: return DType::kI32;
    case torch::kUInt8: return DType::kU8;
    default: TORCH_CHECK(false, "train state: no stored form for ", dtype);
  }
}

std::vector<StreamedTensor> with_random_state(std::vector<StreamedTensor> tensors, const torch::Tensor& random) {
  tensors.push_back(whole_tensor(kRandomName, random));
  return tensors;
}

}  // namespace

std::vector<StreamedTensor> train_state_tensors(Optimizer& optimizer, const std::vector<LearningTable*>& tables) {
  std::vector<StreamedTensor> tensors = optimizer.stored_state();
  for (size_t layer = 0; layer < tables.size(); ++layer) {
    for (StreamedTensor& tensor : tables[layer]->stored_state()) {
      tensor.name = fmt::format("table.{}.{}", layer, tensor.name);
      tensors.push_back(std::move(tensor));
    }
  }
  return tensors;
}

Status save_train_state(Env& env, const std::string& directory, const std::vector<StreamedTensor>& tensors,
                        const std::vector<LearningTable*>& tables, const TrainPosition& position,
                        const std::string& recipe_toml) {
  const std::vector<StreamedTensor> all = with_random_state(tensors, random_state());
  std::vector<TensorSpec> specs;
  for (const StreamedTensor& tensor : all) specs.push_back({tensor.name, stored_dtype(tensor.dtype), tensor.shape});
  ENGRAM_ASSIGN_OR_RETURN(
      auto writer, SafetensorsWriter::create(env, join_path(directory, kOptimizerFile), specs, {{"format", "pt"}}));
  for (const StreamedTensor& tensor : all) ENGRAM_RETURN_IF_ERROR(append_tensor(tensor, tensor.dtype, *writer));
  ENGRAM_RETURN_IF_ERROR(writer->finish());

  nlohmann::ordered_json state;
  state["format"] = kFormat;
  state["step"] = position.step;
  state["next_batch"] = position.next_batch;
  state["tokens"] = position.tokens;
  state["vocabulary_digest"] = position.vocabulary_digest;
  state["train_tokens"] = position.train_tokens;
  state["tables"] = nlohmann::ordered_json::array();
  for (const LearningTable* table : tables)
    state["tables"].push_back({{"num_rows", table->num_rows()}, {"row_dim", table->row_dim()}});
  ENGRAM_RETURN_IF_ERROR(write_file_atomic(env, join_path(directory, kStateFile), state.dump(2) + "\n"));
  return write_file_atomic(env, join_path(directory, kRecipeFile), recipe_toml);
}

Result<TrainPosition> load_position(Env& env, const std::string& directory, const TrainPosition& wanted) {
  const std::string path = join_path(directory, kStateFile);
  ENGRAM_ASSIGN_OR_RETURN(const nlohmann::json state, read_json_file(env, path));
  int64_t format = 0;
  TrainPosition position;
  Fields fields(state, path);
  fields.need("format", format, kFormat, kFormat);
  fields.need("step", position.step, 0);
  fields.need("next_batch", position.next_batch, 0);
  fields.need("tokens", position.tokens, 0);
  fields.need("vocabulary_digest", position.vocabulary_digest);
  fields.need("train_tokens", position.train_tokens, 0);
  ENGRAM_RETURN_IF_ERROR(fields.status());
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

Status load_train_state(Env& env, const std::string& directory, const std::vector<StreamedTensor>& tensors) {
  const std::string path = join_path(directory, kOptimizerFile);
  ENGRAM_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::open(env, path));
  const torch::Tensor random = random_state().clone();
  const std::vector<StreamedTensor> all = with_random_state(tensors, random);
  if (file.tensors().size() != all.size())
    return invalid_argument("{}: got {} tensors, wanted {}", path, file.tensors().size(), all.size());
  for (const StreamedTensor& tensor : all) {
    ENGRAM_ASSIGN_OR_RETURN(const TensorView view, file.find(tensor.name));
    ENGRAM_RETURN_IF_ERROR(check_tensor(view, path, tensor.name, {stored_dtype(tensor.dtype)}, tensor.shape));
  }
  for (const StreamedTensor& tensor : all) fill_tensor(*file.find(tensor.name), tensor);
  ENGRAM_RETURN_IF_ERROR(file.check_unchanged());
  set_random_state(random);
  return Status();
}

}  // namespace engram
