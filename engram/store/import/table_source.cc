#include "engram/store/import/table_source.h"

#include <algorithm>
#include <cstring>

#include "engram/core/json.h"
#include "engram/kernels/row_codec.h"
#include "engram/store/import/import.h"

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
    return json_find(section, "ple_layer_ids") != nullptr || json_find(section, "engram_layer_ids") != nullptr;
  };
  const nlohmann::json& text = nested != nullptr && (has_tables(*nested) || !has_tables(config)) ? *nested : config;
  std::string type;
  if (const auto* value = json_find(config, "model_type"); value != nullptr && value->is_string()) type = *value;
  if (type == "engram") return import::open_checkpoint(env, directory, config, config_path);
  if (type.starts_with("qwen4_exp") || json_find(text, "ple_layer_ids") != nullptr)
    return import::open_ple(env, directory, text, config_path);
  if (json_find(text, "engram_layer_ids") != nullptr)
    return import::open_deepseek(env, directory, text, config_path, tokenizer);
  return invalid_argument(
      "{}: model_type is {} and there is neither engram_layer_ids nor ple_layer_ids: no tables that are known here",
      config_path, quote_text(type));
}

}  // namespace

Result<int> TableSource::find_layer(int layer_id) const {
  std::string there;
  for (size_t i = 0; i < tables_.size(); ++i) {
    if (tables_[i].layer_id == layer_id) return static_cast<int>(i);
    there += fmt::format("{}{}", i == 0 ? "" : ", ", tables_[i].layer_id);
  }
  return not_found("{}: no table of layer {}, there are {}", path_, layer_id, there);
}

Status TableSource::read_rows(int table, int64_t first, int64_t count, std::span<std::byte> out) const {
  if (table < 0 || static_cast<size_t>(table) >= tables_.size())
    return invalid_argument("{}: table {}, wanted 0 .. {}", path_, table, tables_.size() - 1);
  const SourceTable& from = tables_[static_cast<size_t>(table)];
  if (first < 0 || count < 0 || first > from.num_rows || count > from.num_rows - first)
    return make_status(StatusCode::kOutOfRange, "{}: layer {}: rows {} .. {}, there are {}", path_, from.layer_id,
                       first, first + count - 1, from.num_rows);
  if (out.size() != static_cast<size_t>(count * from.format.row_bytes()))
    return invalid_argument("{}: a buffer of {} bytes for {} rows of {}", path_, out.size(), count,
                            from.format.row_bytes());
  if (count > 0) ENGRAM_RETURN_IF_ERROR(do_read_rows(table, first, count, out.data()));
  return check_unchanged();
}

Status TableSource::read_values(int table, std::span<const int64_t> row_ids, std::span<float> out) const {
  if (table < 0 || static_cast<size_t>(table) >= tables_.size())
    return invalid_argument("{}: table {}, wanted 0 .. {}", path_, table, tables_.size() - 1);
  const SourceTable& from = tables_[static_cast<size_t>(table)];
  const auto width = static_cast<size_t>(from.format.width);
  if (out.size() != row_ids.size() * width)
    return invalid_argument("{}: a buffer of {} floats for {} rows of {}", path_, out.size(), row_ids.size(), width);
  for (const int64_t id : row_ids) {
    if (id < 0 || id >= from.num_rows)
      return make_status(StatusCode::kOutOfRange, "{}: layer {}: row id is {}, wanted 0 .. {}", path_, from.layer_id,
                         id, from.num_rows - 1);
  }
  // Ids that follow each other are read together.
  constexpr size_t kMostTogether = 4096;
  const auto row_bytes = static_cast<size_t>(from.format.row_bytes());
  std::vector<std::byte> rows;
  for (size_t begin = 0, end; begin < row_ids.size(); begin = end) {
    for (end = begin + 1; end < row_ids.size() && end - begin < kMostTogether && row_ids[end] == row_ids[end - 1] + 1;)
      ++end;
    const auto count = static_cast<int64_t>(end - begin);
    rows.resize((end - begin) * row_bytes);
    ENGRAM_RETURN_IF_ERROR(do_read_rows(table, row_ids[begin], count, rows.data()));
    decode_rows(from.format, rows.data(), row_bytes, count, out.data() + begin * width);
  }
  return check_unchanged();
}

Result<std::unique_ptr<TableSource>> import::open_row_file(Env& env, const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(RowFileReader reader, RowFileReader::open(env, path));
  return std::unique_ptr<TableSource>(new RowFileSource(std::move(reader)));
}

Result<std::unique_ptr<TableSource>> open_table_source(Env& env, const std::string& path,
                                                       const std::string& tokenizer) {
  if (env.file_exists(join_path(path, "."))) return open_folder(env, path, tokenizer);
  ENGRAM_ASSIGN_OR_RETURN(const std::string magic, first_bytes(env, path, 4));
  if (magic == "GGUF") return import::open_gguf(env, path);
  if (path.ends_with(".safetensors"))
    return invalid_argument("{}: give the folder; config.json beside the shards says what the tensors are", path);
  return import::open_row_file(env, path);
}

}  // namespace engram
