#include "engram/store/rowfile/overlay_file.h"

#include <cstring>

#include "engram/core/json.h"
#include "engram/core/sha256.h"

namespace engram {
namespace {

constexpr const char* kTableKey = "table_header_sha256";

template <typename Value>
std::vector<Value> values_of(const TensorView& view) {
  std::vector<Value> values(view.bytes.size() / sizeof(Value));
  if (!values.empty()) std::memcpy(values.data(), view.bytes.data(), view.bytes.size());
  return values;
}

std::string tensor_name(int layer_id, const char* part) { return fmt::format("layers.{}.{}", layer_id, part); }

Result<Overlay::Layer> load_layer(const SafetensorsFile& file, const RowTable& table) {
  Overlay::Layer layer;
  layer.layer_id = table.layer_id;
  const auto find = [&](const char* part, DType dtype, const std::vector<int64_t>& shape) -> Result<TensorView> {
    const std::string name = tensor_name(table.layer_id, part);
    ENGRAM_ASSIGN_OR_RETURN(const TensorView view, file.find(name));
    ENGRAM_RETURN_IF_ERROR(check_tensor(view, file.path(), name, {dtype}, shape));
    return view;
  };
  ENGRAM_ASSIGN_OR_RETURN(const TensorView named, file.find(tensor_name(table.layer_id, "row_ids")));
  const int64_t count = named.shape.size() == 1 ? named.shape[0] : 0;
  ENGRAM_ASSIGN_OR_RETURN(const TensorView ids, find("row_ids", DType::kI64, {count}));
  ENGRAM_ASSIGN_OR_RETURN(const TensorView rows, find("rows", DType::kU8, {count, table.row_bytes}));
  ENGRAM_ASSIGN_OR_RETURN(const TensorView replaced, find("replaced_crc32c", DType::kU32, {count}));
  layer.row_ids = values_of<int64_t>(ids);
  layer.rows = values_of<std::byte>(rows);
  layer.replaced = values_of<uint32_t>(replaced);
  for (size_t i = 0; i < layer.row_ids.size(); ++i) {
    const int64_t low = i > 0 ? layer.row_ids[i - 1] + 1 : 0;
    if (layer.row_ids[i] < low || layer.row_ids[i] >= table.num_rows)
      return data_loss("{}: {}[{}] is {}, wanted {} .. {}", file.path(), tensor_name(table.layer_id, "row_ids"), i,
                       layer.row_ids[i], low, table.num_rows - 1);
  }
  return layer;
}

}  // namespace

Result<Overlay> Overlay::load(Env& env, const std::string& path, const RowFileInfo& table) {
  ENGRAM_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::open(env, path));
  ENGRAM_ASSIGN_OR_RETURN(Overlay overlay, parse(file, table));
  ENGRAM_RETURN_IF_ERROR(file.check_unchanged());
  return overlay;
}

Result<Overlay> Overlay::parse(const SafetensorsFile& file, const RowFileInfo& table) {
  const std::string& path = file.path();
  const auto digest = file.metadata().find(kTableKey);
  if (digest == file.metadata().end()) return data_loss("{}: no {}, so not an overlay", path, kTableKey);
  if (digest->second != sha256_hex(table.header_bytes()))
    return make_status(StatusCode::kFailedPrecondition, "{}: an overlay for a table with another header", path);
  Overlay overlay{path, {}};
  for (const RowTable& layer : table.tables) {
    if (!file.tensors().contains(tensor_name(layer.layer_id, "row_ids"))) continue;
    ENGRAM_ASSIGN_OR_RETURN(Layer loaded, load_layer(file, layer));
    overlay.layers.push_back(std::move(loaded));
  }
  if (file.tensors().size() != 3 * overlay.layers.size())
    return data_loss("{}: {} tensors, wanted three for each of its {} layers", path, file.tensors().size(),
                     overlay.layers.size());
  return overlay;
}

Status Overlay::save(Env& env, const RowFileInfo& table) const {
  std::vector<TensorSpec> tensors;
  for (const Layer& layer : layers) {
    const auto count = static_cast<int64_t>(layer.row_ids.size());
    ENGRAM_ASSIGN_OR_RETURN(const int at, table.find_layer(layer.layer_id));
    tensors.push_back({tensor_name(layer.layer_id, "row_ids"), DType::kI64, {count}});
    tensors.push_back({tensor_name(layer.layer_id, "replaced_crc32c"), DType::kU32, {count}});
    tensors.push_back(
        {tensor_name(layer.layer_id, "rows"), DType::kU8, {count, table.tables[static_cast<size_t>(at)].row_bytes}});
  }
  const std::map<std::string, std::string> metadata = {{kTableKey, sha256_hex(table.header_bytes())}};
  ENGRAM_ASSIGN_OR_RETURN(const auto writer, SafetensorsWriter::create(env, path, tensors, metadata));
  for (const Layer& layer : layers) {
    ENGRAM_RETURN_IF_ERROR(writer->append(std::as_bytes(std::span(layer.row_ids))));
    ENGRAM_RETURN_IF_ERROR(writer->append(std::as_bytes(std::span(layer.replaced))));
    ENGRAM_RETURN_IF_ERROR(writer->append(layer.rows));
  }
  return writer->finish();
}

}  // namespace engram
