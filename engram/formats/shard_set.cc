#include "engram/formats/shard_set.h"

#include "engram/core/json.h"

namespace engram {
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

Result<const SafetensorsFile*> ShardSet::file(const std::string& name) {
  auto at = files_.find(name);
  if (at == files_.end()) {
    ENGRAM_ASSIGN_OR_RETURN(SafetensorsFile opened, SafetensorsFile::open(*env_, join_path(directory_, name)));
    at = files_.emplace(name, std::move(opened)).first;
  }
  return &at->second;
}

Status ShardSet::check_index() {
  std::map<std::string, std::string> found;
  for (const auto& [tensor, name] : file_of_) {
    if (found.contains(tensor)) continue;
    const std::string& in_file = name;  // clang 14 captures no structured binding
    ENGRAM_ASSIGN_OR_RETURN(const SafetensorsFile* shard, file(name));
    const auto add = [&](const auto& tensors) -> Status {
      for (const auto& [held, value] : tensors) {
        const auto indexed = file_of_.find(held);
        if (indexed == file_of_.end() || indexed->second != in_file)
          return data_loss("{}: tensor {} is in it, and {} says {}", shard->path(), quote_text(held, kTensorNameBytes),
                           kIndexName,
                           indexed == file_of_.end() ? "that it is in no file" : quote_text(indexed->second));
        found.emplace(held, in_file);
      }
      return {};
    };
    ENGRAM_RETURN_IF_ERROR(add(shard->tensors()));
    ENGRAM_RETURN_IF_ERROR(add(shard->unknown()));
    if (!found.contains(tensor))
      return not_found("{}: no tensor {}, which {} says is in it", shard->path(), quote_text(tensor, kTensorNameBytes),
                       kIndexName);
  }
  return {};
}

Result<TensorView> ShardSet::find(const std::string& name) {
  const auto at = file_of_.find(name);
  if (at == file_of_.end()) return not_found("{}: no tensor {}", directory_, quote_text(name, kTensorNameBytes));
  ENGRAM_ASSIGN_OR_RETURN(const SafetensorsFile* shard, file(at->second));
  return shard->find(name);
}

Status ShardSet::check_unchanged() const {
  for (const auto& [name, file] : files_) ENGRAM_RETURN_IF_ERROR(file.check_unchanged());
  return {};
}

}  // namespace engram
