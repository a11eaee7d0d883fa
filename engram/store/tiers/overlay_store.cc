#include "engram/store/tiers/overlay_store.h"

#include <algorithm>
#include <functional>

#include "engram/core/crc32c.h"
#include "engram/kernels/row_codec.h"

namespace engram {

Status add_values(const RowFileReader& table, int layer_id, const std::vector<int64_t>& row_ids,
                  std::span<const float> values, Overlay& overlay) {
  ENGRAM_ASSIGN_OR_RETURN(const int at, table.info().find_layer(layer_id));
  const RowTable& rows = table.info().tables[static_cast<size_t>(at)];
  const auto count = static_cast<int64_t>(row_ids.size());
  if (values.size() != static_cast<size_t>(count * rows.format.width) ||
      std::ranges::adjacent_find(row_ids, std::greater_equal()) != row_ids.end())
    return invalid_argument("overlay: {} values for {} rows of {}, wanted as many, and row ids that ascend",
                            values.size(), count, rows.format.width);
  Overlay::Layer layer{layer_id, row_ids, std::vector<std::byte>(static_cast<size_t>(count * rows.row_bytes)), {}};
  ENGRAM_RETURN_IF_ERROR(encode_rows(rows.format, values.data(), count, layer.rows.data()).with_context("overlay"));
  std::vector<std::byte> row(static_cast<size_t>(rows.row_bytes));
  for (const int64_t id : row_ids) {
    ENGRAM_RETURN_IF_ERROR(table.read_rows(at, id, 1, row));
    layer.replaced.push_back(crc32c(row));
  }
  overlay.layers.push_back(std::move(layer));
  return {};
}

Status add_edits(RowStore& base, const Overlay::Layer& layer, const std::string& path, EditedRows& rows) {
  const size_t bytes = base.row_bytes();
  std::vector<std::byte> below(layer.row_ids.size() * bytes);
  ENGRAM_RETURN_IF_ERROR(base.read(layer.row_ids, below).wait());
  for (size_t i = 0; i < layer.row_ids.size(); ++i) {
    const auto of = [&](const std::vector<std::byte>& all) { return std::span(all).subspan(i * bytes, bytes); };
    const auto earlier = rows.find(layer.row_ids[i]);
    if (crc32c(of(below)) != layer.replaced[i] &&
        (earlier == rows.end() || crc32c(earlier->second) != layer.replaced[i]))
      return make_status(StatusCode::kFailedPrecondition,
                         "{}: layer {} row {} replaces other bytes than the table has: an overlay for another table",
                         path, layer.layer_id, layer.row_ids[i]);
    const auto row = of(layer.rows);
    rows[layer.row_ids[i]].assign(row.begin(), row.end());
  }
  return {};
}

Result<std::unique_ptr<OverlayStore>> OverlayStore::create(std::unique_ptr<RowStore> base,
                                                           const std::vector<Overlay>& overlays, int layer_id) {
  std::unique_ptr<OverlayStore> store(new OverlayStore(std::move(base)));
  for (const Overlay& overlay : overlays) {
    for (const Overlay::Layer& layer : overlay.layers) {
      if (layer.layer_id == layer_id)
        ENGRAM_RETURN_IF_ERROR(add_edits(*store->base_, layer, overlay.path, store->rows_));
    }
  }
  return store;
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
