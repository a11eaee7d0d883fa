#include "engram/store/tiers/overlay_store.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include "engram/core/crc32c.h"
#include "engram/core/json.h"
#include "engram/core/sha256.h"
#include "engram/formats/safetensors.h"
#include "engram/kernels/row_codec.h"

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
  ENGRAM_RETURN_IF_ERROR(file.check_unchanged());
  return overlay;
}

Status Overlay::add_values(const RowFileReader& table, int layer_id, const std::vector<int64_t>& row_ids,
                           std::span<const float> values) {
  ENGRAM_ASSIGN_OR_RETURN(const int at, table.info().find_layer(layer_id));
  const RowTable& rows = table.info().tables[static_cast<size_t>(at)];
  const auto count = static_cast<int64_t>(row_ids.size());
  if (values.size() != static_cast<size_t>(count * rows.format.width) ||
      std::ranges::adjacent_find(row_ids, std::greater_equal()) != row_ids.end())
    return invalid_argument("overlay: {} values for {} rows of {}, wanted as many, and row ids that ascend",
                            values.size(), count, rows.format.width);
  Layer layer{layer_id, row_ids, std::vector<std::byte>(static_cast<size_t>(count * rows.row_bytes)), {}};
  ENGRAM_RETURN_IF_ERROR(encode_rows(rows.format, values.data(), count, layer.rows.data()).with_context("overlay"));
  std::vector<std::byte> row(static_cast<size_t>(rows.row_bytes));
  for (const int64_t id : row_ids) {
    ENGRAM_RETURN_IF_ERROR(table.read_rows(at, id, 1, row));
    layer.replaced.push_back(crc32c(row));
  }
  layers.push_back(std::move(layer));
  return {};
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

Result<std::unique_ptr<OverlayStore>> OverlayStore::create(std::unique_ptr<RowStore> base,
                                                           const std::vector<Overlay>& overlays, int layer_id) {
  std::unique_ptr<OverlayStore> store(new OverlayStore(std::move(base)));
  for (const Overlay& overlay : overlays) {
    for (const Overlay::Layer& layer : overlay.layers) {
      if (layer.layer_id == layer_id) ENGRAM_RETURN_IF_ERROR(store->add(layer, overlay.path));
    }
  }
  return store;
}

Status OverlayStore::add(const Overlay::Layer& layer, const std::string& path) {
  const size_t bytes = row_bytes();
  std::vector<std::byte> below(layer.row_ids.size() * bytes);
  ENGRAM_RETURN_IF_ERROR(base_->read(layer.row_ids, below).wait());
  for (size_t i = 0; i < layer.row_ids.size(); ++i) {
    const auto of = [&](const std::vector<std::byte>& rows) { return std::span(rows).subspan(i * bytes, bytes); };
    const auto earlier = rows_.find(layer.row_ids[i]);
    if (crc32c(of(below)) != layer.replaced[i] &&
        (earlier == rows_.end() || crc32c(earlier->second) != layer.replaced[i]))
      return make_status(StatusCode::kFailedPrecondition,
                         "{}: layer {} row {} replaces other bytes than the table has: an overlay for another table",
                         path, layer.layer_id, layer.row_ids[i]);
    const auto row = of(layer.rows);
    rows_[layer.row_ids[i]].assign(row.begin(), row.end());
  }
  return {};
}

Pending OverlayStore::patch(Pending below, std::span<const int64_t> row_ids, std::span<std::byte> out) {
  std::vector<std::pair<size_t, const std::vector<std::byte>*>> edits;  // places, and their rows
  for (size_t i = 0; i < row_ids.size(); ++i) {
    if (const auto row = rows_.find(row_ids[i]); row != rows_.end()) edits.emplace_back(i, &row->second);
  }
  misses_.fetch_add(row_ids.size() - edits.size(), std::memory_order_relaxed);
  if (edits.empty()) return below;
  const Completion completion;
  Pending pending = completion.pending();
  std::move(below).on_done([this, edits = std::move(edits), rows = out.data(), completion](const Status& status) {
    if (status.ok()) {
      for (const auto& [place, row] : edits) std::copy(row->begin(), row->end(), rows + place * row->size());
      hits_.fetch_add(edits.size(), std::memory_order_relaxed);
    }
    completion.finish(status);
  });
  return pending;
}

void OverlayStore::locate(std::span<const int64_t> row_ids, std::span<uint8_t> tiers) const {
  base_->locate(row_ids, tiers);
  for (size_t i = 0; i < row_ids.size(); ++i) tiers[i] = rows_.contains(row_ids[i]) ? 0 : tiers[i] + 1;
}

StoreStats OverlayStore::stats() const {
  StoreStats stats = base_->stats();
  TierStats tier;
  tier.name = "overlay";
  tier.hits = hits_.load(std::memory_order_relaxed);
  tier.misses = misses_.load(std::memory_order_relaxed);
  tier.bytes = tier.hits * row_bytes();
  tier.resident_rows = rows_.size();
  tier.resident_bytes = rows_.size() * row_bytes();
  stats.tiers.insert(stats.tiers.begin(), tier);
  return stats;
}

}  // namespace engram
