#include "engram/store/import/import.h"

#include "engram/core/json.h"

namespace engram::import {
namespace {

constexpr const char* kIndexName = "model.safetensors.index.json";

}  // namespace

Result<ShardSet> ShardSet::open(Env& env, const std::string& directory) {
  ShardSet set;
  set.env_ = &env;
  set.directory_ = directory;
  const std::string index_path = join_path(directory, kIndexName);
  if (env.file_exists(index_path)) {
    ENGRAM_ASSIGN_OR_RETURN(const nlohmann::json index, read_json_file(env, index_path));
    const nlohmann::json* map = json_find(index, "weight_map");
    if (map == nullptr || !map->is_object()) return data_loss("{}: no object weight_map", index_path);
    for (const auto& [name, file] : map->items()) {
      if (!file.is_string() || file.get_ref<const std::string&>().find('/') != std::string::npos)
        return data_loss("{}: weight_map of {} is {}, wanted a file name", index_path,
                         quote_text(name, kTensorNameBytes), quote_text(file.dump()));
      set.file_of_[name] = file.get<std::string>();
    }
    return set;
  }
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<std::string> names, env.list_directory(directory));
  for (const std::string& name : names) {
    if (!name.ends_with(".safetensors")) continue;
    ENGRAM_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::open(env, join_path(directory, name)));
    const auto add = [&](const auto& tensors) -> Status {
      for (const auto& [tensor, value] : tensors) {
        if (!set.file_of_.emplace(tensor, name).second)
          return data_loss("{}: tensor {} is also in {}", join_path(directory, name),
                           quote_text(tensor, kTensorNameBytes), set.file_of_[tensor]);
      }
      return {};
    };
    ENGRAM_RETURN_IF_ERROR(add(file.tensors()));
    ENGRAM_RETURN_IF_ERROR(add(file.unknown()));
    set.files_.emplace(name, std::move(file));
  }
  if (set.files_.empty()) return not_found("{}: no .safetensors file", directory);
  return set;
}

Result<TensorView> ShardSet::find(const std::string& name) {
  const auto at = file_of_.find(name);
  if (at == file_of_.end()) return not_found("{}: no tensor {}", directory_, quote_text(name, kTensorNameBytes));
  auto file = files_.find(at->second);
  if (file == files_.end()) {
    ENGRAM_ASSIGN_OR_RETURN(SafetensorsFile opened, SafetensorsFile::open(*env_, join_path(directory_, at->second)));
    file = files_.emplace(at->second, std::move(opened)).first;
  }
  return file->second.find(name);
}

Status ShardSet::check_unchanged() const {
  for (const auto& [name, file] : files_) ENGRAM_RETURN_IF_ERROR(file.check_unchanged());
  return {};
}

Status check_num_rows(const EngramConfig& config, const std::vector<int64_t>& num_rows, const std::string& where) {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<int64_t> wanted, count_rows(config));
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (num_rows[i] != wanted[i])
      return invalid_argument("{}: layer {} has {} rows, wanted {}, the sum of its {} primes", where,
                              config.layer_ids[i], num_rows[i], wanted[i], config.rows_per_token());
  }
  return {};
}

Result<RowFileHash> make_hash(const EngramConfig& config, const TokenMap& map, const std::vector<int64_t>& num_rows,
                              const std::string& where) {
  ENGRAM_RETURN_IF_ERROR(check_num_rows(config, num_rows, where));
  if (map.compressed_vocab_size() != config.compressed_vocab_size)
    return invalid_argument(
        "{}: compressed_vocab_size is {}, but the tokenizer's {} ids give {}: its rows would all be wrong", where,
        config.compressed_vocab_size, map.vocab_size(), map.compressed_vocab_size());
  const Result<EngramLayout> layout = EngramLayout::create(config, map);
  if (!layout.ok()) return layout.status().with_context(where);
  return RowFileHash{config, layout->compressed_pad_id(), map.sha256()};
}

}  // namespace engram::import
