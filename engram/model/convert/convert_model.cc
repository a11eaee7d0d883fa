#include "engram/model/convert/convert_model.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "engram/core/json.h"
#include "engram/core/output_lock.h"
#include "engram/formats/ggml_rows.h"
#include "engram/hash/layout.h"
#include "engram/kernels/bf16.h"
#include "engram/model/convert/hf_config.h"
#include "engram/model/io/checkpoint.h"
#include "engram/model/io/lora.h"

namespace engram {
namespace assets {
extern const std::string_view modeling_engram_py;
}
namespace {

constexpr int64_t kPieceBytes = 4 << 20;

// write(folder) fills a temporary folder, which then takes the destination's name.
Status write_folder(Env& env, std::string destination, const std::function<Status(const std::string&)>& write) {
  while (destination.size() > 1 && destination.ends_with('/')) destination.pop_back();
  if (env.file_exists(destination))
    return make_status(StatusCode::kAlreadyExists, "{}: it is there already; wanted the name of a new folder",
                       destination);
  ENGRAM_RETURN_IF_ERROR(env.create_directories(parent_path(destination)));
  ENGRAM_ASSIGN_OR_RETURN(const OutputLock lock, OutputLock::file(env, destination));
  const std::string temporary = destination + ".tmp";
  const auto commit = [&]() -> Status {
    ENGRAM_RETURN_IF_ERROR(env.remove_directory_recursively(temporary));
    ENGRAM_RETURN_IF_ERROR(env.create_directory(temporary));
    ENGRAM_RETURN_IF_ERROR(write(temporary));
    ENGRAM_RETURN_IF_ERROR(env.sync_directory(temporary));
    ENGRAM_RETURN_IF_ERROR(env.rename_file(temporary, destination));
    return env.sync_directory(parent_path(destination));
  };
  const Status status = commit();
  if (!status.ok()) (void)env.remove_directory_recursively(temporary).ok();  // the first error is the one to report
  return status;
}

// Rows of `from` to BF16, in place at the front of `rows`.
void round_rows(DType from, std::vector<std::byte>& rows) {
  if (from == DType::kBF16) return;
  const size_t size = dtype_size(from), count = rows.size() / size;
  for (size_t i = 0; i < count; ++i) {
    float value;
    uint16_t half;
    std::memcpy(&value, rows.data() + i * size, from == DType::kF32 ? sizeof value : 0);
    std::memcpy(&half, rows.data() + i * size, sizeof half);
    const uint16_t rounded = round_to_bf16(from == DType::kF32 ? value : widen_fp16(half));
    std::memcpy(rows.data() + i * 2, &rounded, sizeof rounded);
  }
  rows.resize(count * 2);
}

bool is_rounded(const TensorSpec& spec, const ConvertOptions& options) {
  return options.bf16 && spec.dtype != DType::kI64 && !spec.name.ends_with(".e_score_correction_bias");
}

Status write_tensors(Env& env, const std::string& path, const std::vector<SourceTensor>& tensors,
                     const ConvertOptions& options) {
  std::vector<TensorSpec> specs;
  int64_t total = 0, done = 0;
  for (const SourceTensor& tensor : tensors) {
    specs.push_back(tensor.spec);
    if (is_rounded(tensor.spec, options)) specs.back().dtype = DType::kBF16;
    total += tensor.spec.num_bytes();
  }
  ENGRAM_ASSIGN_OR_RETURN(const auto writer, SafetensorsWriter::create(env, path, specs, {{"format", "pt"}}));
  std::vector<std::byte> piece;
  for (const SourceTensor& tensor : tensors) {
    const int64_t rows = tensor.spec.shape[0], row_bytes = tensor.spec.num_bytes() / rows;
    const int64_t step = std::max<int64_t>(1, kPieceBytes / row_bytes);
    for (int64_t begin = 0; begin < rows; begin += step) {
      const int64_t end = std::min(rows, begin + step);
      piece.resize(static_cast<size_t>((end - begin) * row_bytes));
      tensor.read(begin, end, piece.data());
      done += static_cast<int64_t>(piece.size());
      if (is_rounded(tensor.spec, options)) round_rows(tensor.spec.dtype, piece);
      ENGRAM_RETURN_IF_ERROR(writer->append(piece));
      if (options.on_progress && !options.on_progress(done, total))
        return Status(StatusCode::kCancelled, "interrupted; nothing was written");
    }
  }
  return writer->finish();
}

// What most of the weights are, for other programs.
const char* torch_dtype(const std::vector<SourceTensor>& tensors, const ConvertOptions& options) {
  const DType dtype = options.bf16 ? DType::kBF16 : tensors.front().spec.dtype;
  return dtype == DType::kBF16 ? "bfloat16" : dtype == DType::kF16 ? "float16" : "float32";
}

std::string json_text(const nlohmann::ordered_json& json) {
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

// What an exported folder holds.
struct Outgoing {
  std::vector<std::unique_ptr<SafetensorsFile>> files;  // where the tensors are
  std::vector<SourceTensor> tensors;
  nlohmann::ordered_json config;
};

// All tensors of one of the checkpoint's files, their names behind `prefix`.
Status open_checkpoint_file(Env& env, const std::string& path, const std::string& prefix, Outgoing& out) {
  ENGRAM_ASSIGN_OR_RETURN(SafetensorsFile opened, SafetensorsFile::open(env, path));
  out.files.push_back(std::make_unique<SafetensorsFile>(std::move(opened)));
  for (const auto& [name, view] : out.files.back()->tensors()) {
    if (view.bytes.empty() || view.shape.empty())
      return invalid_argument("{}: tensor {} is empty or a scalar", path, quote_text(name, kTensorNameBytes));
    const size_t row = view.bytes.size() / static_cast<size_t>(view.shape[0]);
    out.tensors.push_back(
        {{prefix + name, view.dtype, view.shape}, [view, row](int64_t begin, int64_t end, std::byte* to) {
           std::memcpy(to, view.bytes.data() + static_cast<size_t>(begin) * row,
                       static_cast<size_t>(end - begin) * row);
         }});
  }
  return {};
}

// The configuration of modeling_engram.py, and the constants of the hash as tensors: no hashing code has to agree.
Status add_own_config(const ModelConfig& c, const Tokenizer& tokenizer, Outgoing& out) {
  nlohmann::ordered_json ours = c.to_json(), rope = ours["rope_scaling"], layout = ours["engram"];
  for (const char* section : {"rope_scaling", "engram"}) ours.erase(section);  // transformers rewrites a rope_scaling
  out.config = {{"model_type", "engram"},
                {"architectures", {"EngramForCausalLM"}},
                {"auto_map",
                 {{"AutoConfig", "modeling_engram.EngramConfig"},
                  {"AutoModelForCausalLM", "modeling_engram.EngramForCausalLM"}}}};
  out.config.update(ours);
  out.config["rope"] = rope;
  if (c.memory == MemoryKind::kNone) return {};
  ENGRAM_ASSIGN_OR_RETURN(const TokenMap map, model_token_map(c, tokenizer));
  ENGRAM_ASSIGN_OR_RETURN(const EngramLayout hash, EngramLayout::create(c.engram, map));
  layout["boundary_id"] = hash.boundary_id();
  layout["cut_id"] = hash.cut_id();
  const auto add = [&](const std::string& name, auto numbers) {
    std::vector<int64_t> values(numbers.begin(), numbers.end());
    out.tensors.push_back(
        {{name, DType::kI64, {std::ssize(values)}}, [values](int64_t begin, int64_t end, std::byte* to) {
           std::memcpy(to, values.data() + begin, static_cast<size_t>(end - begin) * sizeof(int64_t));
         }});
  };
  add("model.token_map", map.ids());
  for (int layer = 0; layer < hash.num_layers(); ++layer) {
    const std::string place =
        c.memory_at_input() ? std::string("model.over_encoding")
                            : fmt::format("model.layers.{}.engram", c.engram.layer_ids[static_cast<size_t>(layer)]);
    add(place + ".multipliers", hash.multipliers(layer));
    add(place + ".primes", hash.primes(layer));
    add(place + ".offsets", hash.offsets(layer));
    layout["num_rows"].push_back(hash.num_rows(layer));
  }
  out.config["memory_layout"] = layout;
  return {};
}

nlohmann::ordered_json token_ids(const SpecialTokens& special) {
  nlohmann::ordered_json out;
  if (special.bos >= 0) out["bos_token_id"] = special.bos;
  if (special.eos >= 0) out["eos_token_id"] = special.eos;
  if (!special.more_eos.empty()) {
    out["eos_token_id"] = {special.eos};
    for (const int32_t token : special.more_eos) out["eos_token_id"].push_back(token);
  }
  return out;
}

nlohmann::ordered_json tokenizer_config(const CheckpointConfig& file, const Tokenizer& tokenizer) {
  nlohmann::ordered_json out = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                                {"clean_up_tokenization_spaces", false},
                                {"model_max_length", file.config.max_position_embeddings}};
  if (file.special.bos >= 0) out["bos_token"] = tokenizer.token_string(file.special.bos);
  if (file.special.eos >= 0) out["eos_token"] = tokenizer.token_string(file.special.eos);
  if (!file.chat_template.empty()) out["chat_template"] = file.chat_template;
  return out;
}

}  // namespace

Status import_model(Env& env, const SourceModel& source, const std::string& destination,
                    const ConvertOptions& options) {
  return write_folder(env, destination, [&](const std::string& folder) -> Status {
    ENGRAM_RETURN_IF_ERROR(write_file_atomic(env, join_path(folder, kTokenizerFile), source.tokenizer->json()));
    ENGRAM_RETURN_IF_ERROR(write_tensors(env, join_path(folder, kModelFile), source.tensors, options));
    ENGRAM_RETURN_IF_ERROR(source.check_unchanged());
    return write_file_atomic(env, join_path(folder, kConfigFile),
                             checkpoint_config_text(source.file, torch_dtype(source.tensors, options)));
  });
}

Status export_hf_folder(Env& env, const std::string& checkpoint, const std::string& destination,
                        const ConvertOptions& options) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string directory, resolve_checkpoint(env, checkpoint));
  if (env.file_exists(join_path(directory, kAdapterFile))) {  // other programs get the sum
    const std::string merged = fmt::format("{}/merged-{}", parent_path(destination), getpid());
    Status status = copy_model(env, directory, merged);
    if (status.ok()) status = export_hf_folder(env, merged, destination, options);
    (void)env.remove_directory_recursively(merged).ok();
    return status;
  }
  ENGRAM_ASSIGN_OR_RETURN(const CheckpointConfig file, read_checkpoint_config(env, join_path(directory, kConfigFile)));
  ENGRAM_ASSIGN_OR_RETURN(Tokenizer tokenizer, Tokenizer::load(env, join_path(directory, kTokenizerFile)));
  ENGRAM_RETURN_IF_ERROR(check_vocabulary(file.config, tokenizer));
  tokenizer.fill_up(file.config.vocab_size);
  Outgoing out;
  const bool family = has_hf_family(file.config);
  ENGRAM_RETURN_IF_ERROR(open_checkpoint_file(env, join_path(directory, kModelFile), "", out));
  if (family) {
    out.config = make_hf_config(file.config);
  } else {
    if (file.config.memory != MemoryKind::kNone)
      ENGRAM_RETURN_IF_ERROR(open_checkpoint_file(env, join_path(directory, kEngramFile), "model.", out));
    ENGRAM_RETURN_IF_ERROR(add_own_config(file.config, tokenizer, out));
  }
  out.config["torch_dtype"] = torch_dtype(out.tensors, options);
  const nlohmann::ordered_json ids = token_ids(file.special);
  out.config.update(ids);
  return write_folder(env, destination, [&](const std::string& folder) -> Status {
    const auto write = [&](const char* name, std::string_view text) {
      return write_file_atomic(env, join_path(folder, name), text);
    };
    ENGRAM_RETURN_IF_ERROR(write(kTokenizerFile, tokenizer.json()));
    ENGRAM_RETURN_IF_ERROR(write("tokenizer_config.json", json_text(tokenizer_config(file, tokenizer))));
    if (!ids.empty()) ENGRAM_RETURN_IF_ERROR(write("generation_config.json", json_text(ids)));
    if (!family) ENGRAM_RETURN_IF_ERROR(write("modeling_engram.py", assets::modeling_engram_py));
    ENGRAM_RETURN_IF_ERROR(write_tensors(env, join_path(folder, kModelFile), out.tensors, options));
    for (const auto& opened : out.files) ENGRAM_RETURN_IF_ERROR(opened->check_unchanged());
    return write(kConfigFile, json_text(out.config));
  });
}

}  // namespace engram
