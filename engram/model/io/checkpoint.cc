#include "engram/model/io/checkpoint.h"

#include <cstring>
#include <optional>
#include <set>

#include "engram/core/json.h"
#include "engram/formats/safetensors.h"
#include "engram/model/io/checkpoint_names.h"
#include "engram/model/io/lora.h"
#include "engram/model/parameters.h"

namespace engram {
namespace {

// The tensor of a file must have this shape and be F32 (or BF16 or F16, unless exact is wanted).
Status check_stored(const SafetensorsFile& file, const std::string& name, const std::vector<int64_t>& shape,
                    bool keep_fp32) {
  const auto found = file.tensors().find(name);
  if (found == file.tensors().end()) {
    return invalid_argument("{}: tensor '{}' is missing, wanted {}", file.path(), name, shape_text(shape));
  }
  std::vector<DType> dtypes = {DType::kF32};
  if (!keep_fp32) dtypes.insert(dtypes.end(), {DType::kBF16, DType::kF16});
  return check_tensor(found->second, file.path(), name, dtypes, shape);
}

// Every tensor that is wanted, and no other.
Status check_file(const SafetensorsFile& file, const std::vector<StoredTensor>& wanted,
                  const std::set<std::string>& others) {
  std::set<std::string> known = others;
  for (const StoredTensor& stored : wanted) known.insert(stored.tensor.name);
  for (const auto& [name, view] : file.tensors()) {
    if (known.contains(name)) continue;
    if (is_fused_name(name)) {
      return invalid_argument(
          "{}: got the fused tensor {}, wanted its parts under their own names "
          "(docs/formats/checkpoint.md)",
          file.path(), quote_text(name));
    }
    return invalid_argument("{}: got the tensor {}, which {} does not use", file.path(), quote_text(name), kConfigFile);
  }
  for (const auto& [name, dtype] : file.unknown()) {
    if (known.contains(name)) return file.find(name).status();
    return invalid_argument("{}: got the tensor {}, which {} has no place for", file.path(), quote_text(name),
                            kConfigFile);
  }
  for (const auto& [tensor, keep_fp32, spread] : wanted)
    ENGRAM_RETURN_IF_ERROR(check_stored(file, tensor.name, tensor.shape, keep_fp32));
  return Status();
}

// A CPU tensor of the file's own dtype, copied (the file's bytes may be unaligned).
torch::Tensor read_tensor(const TensorView& view) {
  torch::Tensor out = torch::empty(view.shape, torch_type(view.dtype));
  if (!view.bytes.empty()) std::memcpy(out.data_ptr(), view.bytes.data(), view.bytes.size());
  return out;
}

void copy_tensors(const SafetensorsFile& file, const std::vector<StoredTensor>& tensors) {
  for (const StoredTensor& stored : tensors) fill_tensor(file.tensors().at(stored.tensor.name), stored.tensor);
}

std::set<std::string> table_names(const ModelConfig& config) {
  std::set<std::string> names;
  for (int layer = 0; layer < config.num_memory_layers(); ++layer) names.insert(table_name(config, layer));
  return names;
}

Status check_tables(const SafetensorsFile& file, const ModelConfig& config) {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<int64_t> rows, count_rows(config.engram));
  for (int layer = 0; layer < config.num_memory_layers(); ++layer) {
    ENGRAM_RETURN_IF_ERROR(check_stored(file, table_name(config, layer),
                                        {rows[static_cast<size_t>(layer)], config.engram.head_dim},
                                        /*keep_fp32=*/false));
  }
  return Status();
}

struct WeightFiles {
  SafetensorsFile model;
  std::optional<SafetensorsFile> memory;  // of a model that has one
};

torch::Dtype stored_dtype(const WeightFiles& files) {
  const auto found = files.model.tensors().find("model.embed_tokens.weight");
  const bool half = found != files.model.tensors().end() && found->second.dtype == DType::kBF16;
  return half ? torch::kBFloat16 : torch::kFloat;
}

Result<WeightFiles> open_weights(Env& env, const std::string& directory, const ModelConfig& config) {
  WeightFiles files;
  ENGRAM_ASSIGN_OR_RETURN(files.model, SafetensorsFile::open(env, join_path(directory, kModelFile)));
  const std::string path = join_path(directory, kEngramFile);
  if (config.memory != MemoryKind::kNone) {
    ENGRAM_ASSIGN_OR_RETURN(files.memory, SafetensorsFile::open(env, path));
  } else if (env.file_exists(path)) {
    return invalid_argument("{}: the file is there, but {} says memory = \"none\"", path, kConfigFile);
  }
  return files;
}

Status fill_weights(const WeightFiles& files, TransformerImpl& model) {
  const StoredTensors tensors = stored_tensors(model);
  ENGRAM_RETURN_IF_ERROR(check_file(files.model, tensors.model, {}));
  if (files.memory) {
    ENGRAM_RETURN_IF_ERROR(check_file(*files.memory, tensors.engram, table_names(model.config())));
    ENGRAM_RETURN_IF_ERROR(check_tables(*files.memory, model.config()));
    copy_tensors(*files.memory, tensors.engram);
    ENGRAM_RETURN_IF_ERROR(files.memory->check_unchanged());
  }
  copy_tensors(files.model, tensors.model);
  return files.model.check_unchanged();
}

// A hostile config.json cannot ask for a model much larger than the files that should fill it.
Status check_model_size(const ModelConfig& config, const WeightFiles& files) {
  ENGRAM_ASSIGN_OR_RETURN(const ParameterCount count, count_parameters(config));
  double held = 0;
  const auto add = [&held](const SafetensorsFile& file) {
    for (const auto& [name, view] : file.tensors()) held += static_cast<double>(view.bytes.size()) / 2;
  };
  add(files.model);
  if (files.memory) add(*files.memory);
  const double wanted = static_cast<double>(count.p_tot) + static_cast<double>(count.vocabulary);
  if (wanted <= 2 * held + 1e6) return Status();
  return invalid_argument("{}: got room for at most {:.0f} parameters, wanted {:.0f} for {}", files.model.path(), held,
                          wanted, kConfigFile);
}

struct OutgoingTensor {
  StreamedTensor tensor;
  torch::Dtype dtype;  // in the file
};

std::vector<OutgoingTensor> outgoing(const std::vector<StoredTensor>& tensors, torch::Dtype dtype) {
  std::vector<OutgoingTensor> out;
  for (const StoredTensor& stored : tensors) out.push_back({stored.tensor, stored.keep_fp32 ? torch::kFloat : dtype});
  return out;
}

Status write_tensors(Env& env, const std::string& path, const std::vector<OutgoingTensor>& tensors) {
  std::vector<TensorSpec> specs;
  for (const auto& [tensor, dtype] : tensors)
    specs.push_back({tensor.name, dtype == torch::kFloat ? DType::kF32 : DType::kBF16, tensor.shape});
  ENGRAM_ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::create(env, path, specs, {{"format", "pt"}}));
  for (const auto& [tensor, dtype] : tensors) ENGRAM_RETURN_IF_ERROR(append_tensor(tensor, dtype, *writer));
  return writer->finish();
}

torch::Device device_of(const Transformer& model) { return model->parameters().front().device(); }

}  // namespace

Result<MemoryHasher> make_memory_hasher(const ModelConfig& config, const Tokenizer& tokenizer) {
  if (config.memory == MemoryKind::kNone) return MemoryHasher();
  ENGRAM_RETURN_IF_ERROR(check_vocabulary(config, tokenizer));
  ENGRAM_ASSIGN_OR_RETURN(const TokenMap map, model_token_map(config, tokenizer));
  const Result<EngramLayout> layout = EngramLayout::create(config.engram, map);
  if (!layout.ok()) return layout.status().with_context("engram");
  return MemoryHasher::create(*layout, map);
}

ForwardInput LoadedModel::prepare_input(const std::vector<int32_t>& tokens, int64_t batch, int64_t length,
                                        const std::vector<std::vector<int32_t>>& starts, bool memory_off) const {
  TORCH_CHECK(batch > 0 && length > 0 && static_cast<int64_t>(tokens.size()) == batch * length, "tokens: got ",
              tokens.size(), ", wanted batch x length = ", batch, " x ", length);
  TORCH_CHECK(starts.empty() || static_cast<int64_t>(starts.size()) == batch, "document starts: got ", starts.size(),
              " sequences, wanted ", batch, " or none");
  const torch::Device device = device_of(model);
  ForwardInput input;
  torch::Tensor ids = torch::tensor(tokens, torch::kInt).to(torch::kLong).view({batch, length});
  const torch::Tensor masked = ids < 0;
  TORCH_CHECK(ids.max().item<int64_t>() < config.vocab_size && ids.min().item<int64_t>() >= -1, "tokens: got ids in [",
              ids.min().item<int64_t>(), ", ", ids.max().item<int64_t>(), "], wanted [-1, ", config.vocab_size, ")");
  if (masked.any().item<bool>()) input.masked = masked.to(device);
  input.tokens = ids.clamp_min(0).to(device);
  input.starts = starts;
  input.memory_off = memory_off;
  if (memory_off) return input;

  RowIds row_ids;
  for (int64_t b = 0; b < batch && !tables.empty(); ++b) {
    const std::span<const int32_t> row(tokens.data() + b * length, static_cast<size_t>(length));
    NgramContext context = hasher.new_context();
    throw_if_error(context.append(row, starts.empty() ? std::span<const int32_t>() : starts[static_cast<size_t>(b)]));
    hasher.hash(context, length, row_ids);
  }
  for (size_t layer = 0; layer < tables.size(); ++layer) {
    MemoryRows rows = tables[layer]->gather(row_ids.layer(static_cast<int>(layer)), batch, length);
    if (!device.is_cpu() && rows.unique_rows.is_cpu()) rows = shaped({rows.in_order(), {}}, batch, length);
    input.memory.push_back({rows.unique_rows.to(device), rows.index.to(device)});
  }
  return input;
}

Result<LoadedModel> load_model(Env& env, const std::string& path, const LoadOptions& options) {
  LoadedModel out;
  ENGRAM_ASSIGN_OR_RETURN(out.directory, resolve_checkpoint(env, path));
  ENGRAM_ASSIGN_OR_RETURN(CheckpointConfig file, read_checkpoint_config(env, join_path(out.directory, kConfigFile)));
  const std::string tokenizer_path = join_path(out.directory, kTokenizerFile);
  ENGRAM_ASSIGN_OR_RETURN(Tokenizer tokenizer, Tokenizer::load(env, tokenizer_path));
  if (tokenizer.vocabulary_digest() != file.vocabulary_digest) {
    return invalid_argument("{}: got a vocabulary with digest {}, wanted {} ({})", tokenizer_path,
                            tokenizer.vocabulary_digest(), quote_text(file.vocabulary_digest), kConfigFile);
  }
  ENGRAM_RETURN_IF_ERROR(check_vocabulary(file.config, tokenizer).with_context(tokenizer_path));
  tokenizer.fill_up(file.config.vocab_size);
  Result<MemoryHasher> hasher = make_memory_hasher(file.config, tokenizer);
  if (!hasher.ok()) return hasher.status().with_context(join_path(out.directory, kConfigFile));
  out.hasher = std::move(hasher).value();
  out.config = file.config;
  out.special = file.special;
  out.chat_template = file.chat_template;
  out.tokenizer = std::make_shared<const Tokenizer>(std::move(tokenizer));

  ENGRAM_ASSIGN_OR_RETURN(const WeightFiles files, open_weights(env, out.directory, out.config));
  ENGRAM_RETURN_IF_ERROR(check_model_size(out.config, files));
  ModelConfig unfilled = out.config;  // drawing weights that the file replaces takes longer than reading them
  unfilled.initializer_range = 0;
  out.model = Transformer(unfilled);
  ENGRAM_RETURN_IF_ERROR(fill_weights(files, *out.model));
  ENGRAM_RETURN_IF_ERROR(merge_lora(env, out.directory, *out.model));
  for (int layer = 0; options.with_tables && layer < out.config.num_memory_layers();
       ++layer) {  // fill_weights checked them
    out.tables.push_back(
        std::make_unique<ResidentTable>(read_tensor(files.memory->tensors().at(table_name(out.config, layer)))));
  }
  if (files.memory) ENGRAM_RETURN_IF_ERROR(files.memory->check_unchanged());
  const bool half = options.device.is_cuda() || options.dtype.value_or(stored_dtype(files)) == torch::kBFloat16;
  out.model->place(options.device, half ? torch::kBFloat16 : torch::kFloat);
  out.model->eval();
  return out;
}

Status save_model(Env& env, const std::string& directory, const CheckpointConfig& file, const Tokenizer& tokenizer,
                  const TransformerImpl& model, std::vector<StreamedTensor> table_rows, torch::Dtype dtype) {
  if (dtype != torch::kFloat && dtype != torch::kBFloat16) {
    return invalid_argument("dtype of a checkpoint: got {}, wanted float32 or bfloat16", c10::toString(dtype));
  }
  const ModelConfig& config = file.config;
  ENGRAM_RETURN_IF_ERROR(check_vocabulary(config, tokenizer));
  if (static_cast<int>(table_rows.size()) != config.num_memory_layers()) {
    return invalid_argument("tables: got {}, wanted {}: one per memory layer", table_rows.size(),
                            config.num_memory_layers());
  }
  const StoredTensors tensors = stored_tensors(model);
  std::vector<OutgoingTensor> memory = outgoing(tensors.engram, dtype);
  if (!table_rows.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(const std::vector<int64_t> rows, count_rows(config.engram));
    for (size_t layer = 0; layer < table_rows.size(); ++layer) {
      const std::vector<int64_t> wanted = {rows[layer], config.engram.head_dim};
      if (table_rows[layer].shape != wanted) {
        return invalid_argument("table of memory layer {}: got shape {}, wanted {}", layer,
                                shape_text(table_rows[layer].shape), shape_text(wanted));
      }
      table_rows[layer].name = table_name(config, static_cast<int>(layer));
      memory.push_back({std::move(table_rows[layer]), dtype});
    }
  }
  ENGRAM_RETURN_IF_ERROR(env.create_directories(directory));
  ENGRAM_RETURN_IF_ERROR(write_file_atomic(env, join_path(directory, kTokenizerFile), tokenizer.json()));
  ENGRAM_RETURN_IF_ERROR(write_tensors(env, join_path(directory, kModelFile), outgoing(tensors.model, dtype)));
  if (!table_rows.empty()) ENGRAM_RETURN_IF_ERROR(write_tensors(env, join_path(directory, kEngramFile), memory));
  return write_file_atomic(env, join_path(directory, kConfigFile),
                           checkpoint_config_text(file, dtype == torch::kFloat ? "float32" : "bfloat16"));
}

std::vector<StreamedTensor> spread_weights(const TransformerImpl& model) {
  std::vector<StreamedTensor> spread;
  for (StoredTensor& stored : stored_tensors(model).model)
    if (stored.spread) spread.push_back(std::move(stored.tensor));
  return spread;
}

Status load_weights(Env& env, const std::string& directory, TransformerImpl& model) {
  ENGRAM_ASSIGN_OR_RETURN(const WeightFiles files, open_weights(env, directory, model.config()));
  return fill_weights(files, model);
}

Status load_backbone(Env& env, const std::string& directory, TransformerImpl& model) {
  ModelConfig bare = model.config();
  bare.memory = MemoryKind::kNone;
  ENGRAM_ASSIGN_OR_RETURN(const WeightFiles files, open_weights(env, directory, bare));
  return fill_weights(files, model);
}

Status fill_table_rows(Env& env, const std::string& directory, const ModelConfig& config,
                       const std::vector<StreamedTensor>& tables) {
  if (tables.empty()) return {};
  ENGRAM_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::open(env, join_path(directory, kEngramFile)));
  ENGRAM_RETURN_IF_ERROR(check_tables(file, config));
  for (size_t layer = 0; layer < tables.size(); ++layer)
    fill_tensor(file.tensors().at(table_name(config, static_cast<int>(layer))), tables[layer]);
  return file.check_unchanged();
}

Result<std::vector<torch::Tensor>> load_table_rows(Env& env, const std::string& directory, const ModelConfig& config) {
  std::vector<torch::Tensor> out;
  std::vector<StreamedTensor> tables;
  if (config.memory != MemoryKind::kNone) {
    ENGRAM_ASSIGN_OR_RETURN(const std::vector<int64_t> rows, count_rows(config.engram));
    for (const int64_t count : rows) {
      out.push_back(torch::empty({count, config.engram.head_dim}));
      tables.push_back(whole_tensor("rows", out.back()));
    }
  }
  ENGRAM_RETURN_IF_ERROR(fill_table_rows(env, directory, config, tables));
  return out;
}

Status copy_model(Env& env, const std::string& path, const std::string& directory, std::optional<torch::Dtype> dtype) {
  ENGRAM_ASSIGN_OR_RETURN(const LoadedModel model, load_model(env, path));
  ENGRAM_ASSIGN_OR_RETURN(const auto tables, load_table_rows(env, model.directory, model.config));
  std::vector<StreamedTensor> rows;
  for (const torch::Tensor& table : tables) rows.push_back(whole_tensor("rows", table));
  const CheckpointConfig file{model.config, model.special, model.tokenizer->vocabulary_digest(), model.chat_template};
  return save_model(env, directory, file, *model.tokenizer, *model.model, rows,
                    dtype.value_or(model.model->parameters().front().scalar_type()));
}

}  // namespace engram
