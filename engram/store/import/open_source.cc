#include "engram/core/json.h"
#include "engram/store/import/import.h"
#include "engram/store/import/table_source.h"

namespace engram {
namespace {

class RowFileSource final : public TableSource {
 public:
  explicit RowFileSource(RowFileReader reader) : TableSource("row file", reader.path()), reader_(std::move(reader)) {
    for (const RowTable& table : reader_.info().tables)
      tables_.push_back({table.layer_id, table.num_rows, table.format, row_type_name(table.format.type)});
    hash_ = reader_.info().hash;
    if (!hash_) hash_note_ = "the file does not say how its rows are hashed";
  }

 protected:
  Status do_read_rows(int table, int64_t first, int64_t count, std::byte* out) const override {
    const auto bytes = static_cast<size_t>(count * tables_[static_cast<size_t>(table)].format.row_bytes());
    return reader_.read_rows(table, first, count, {out, bytes});
  }

 private:
  RowFileReader reader_;
};

// The first bytes of a file, fewer where it is shorter.
Result<std::string> first_bytes(Env& env, const std::string& path, size_t count) {
  ENGRAM_ASSIGN_OR_RETURN(const auto file, env.new_random_access_file(path));
  std::string bytes(count, '\0');
  ENGRAM_ASSIGN_OR_RETURN(const size_t got, file->read_at(0, std::as_writable_bytes(std::span(bytes))));
  bytes.resize(got);
  return bytes;
}

Result<std::unique_ptr<TableSource>> open_folder(Env& env, const std::string& path, const std::string& tokenizer) {
  std::string directory = path, config_path = join_path(path, "config.json");
  if (!env.file_exists(config_path) && env.file_exists(join_path(path, "latest/config.json"))) {
    directory = join_path(path, "latest");
    config_path = join_path(directory, "config.json");
  }
  if (!env.file_exists(config_path)) config_path = join_path(path, "inference/config.json");
  if (!env.file_exists(config_path))
    return not_found("{}: no config.json, so not a model's folder; wanted one, a row file or a GGUF file", path);
  ENGRAM_ASSIGN_OR_RETURN(const nlohmann::json config, read_json_file(env, config_path));
  // The keys stand at the root or in text_config; either may be there without them.
  const nlohmann::json* nested = json_find(config, "text_config");
  const auto has_tables = [](const nlohmann::json& section) {
    return json_find(section, "ple_layer_ids") != nullptr || json_find(section, "engram_layer_ids") != nullptr ||
           import::is_longcat(section);
  };
  const nlohmann::json& text = nested != nullptr && (has_tables(*nested) || !has_tables(config)) ? *nested : config;
  std::string type;
  if (const auto* value = json_find(config, "model_type"); value != nullptr && value->is_string()) type = *value;
  if (type == "engram") return import::open_checkpoint(env, directory, config, config_path);
  if (type.starts_with("qwen4_exp") || json_find(text, "ple_layer_ids") != nullptr)
    return import::open_ple(env, directory, text, config_path);
  if (import::is_longcat(text)) return import::open_longcat(env, directory, text, config_path);
  if (json_find(text, "engram_layer_ids") != nullptr)
    return import::open_deepseek(env, directory, text, config_path, tokenizer);
  return invalid_argument(
      "{}: model_type is {} and there is neither engram_layer_ids, ple_layer_ids nor emb_neighbor_num: no tables that "
      "are known here",
      config_path, quote_text(type));
}

}  // namespace

Result<std::unique_ptr<TableSource>> open_table_source(Env& env, const std::string& path,
                                                       const std::string& tokenizer) {
  if (env.file_exists(join_path(path, "."))) return open_folder(env, path, tokenizer);
  ENGRAM_ASSIGN_OR_RETURN(const std::string magic, first_bytes(env, path, 4));
  if (magic == "GGUF") return import::open_gguf(env, path);
  if (path.ends_with(".safetensors"))
    return invalid_argument("{}: give the folder; config.json beside the shards says what the tensors are", path);
  ENGRAM_ASSIGN_OR_RETURN(RowFileReader reader, RowFileReader::open(env, path));
  return std::unique_ptr<TableSource>(new RowFileSource(std::move(reader)));
}

}  // namespace engram
