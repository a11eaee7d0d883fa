#include "engram/model/memory/served_overlay.h"

#include "engram/kernels/row_codec.h"
#include "engram/model/paged/paged_cache.h"

namespace engram {

void ServedOverlay::add(int layer, const Overlay::Layer& edits, const RowFormat& format) {
  Layer& out = layers_[static_cast<size_t>(layer)];
  const auto count = static_cast<int64_t>(edits.row_ids.size());
  out.values = torch::empty({count, format.width});
  decode_rows(format, edits.rows.data(), static_cast<size_t>(format.row_bytes()), count,
              out.values.mutable_data_ptr<float>());
  for (int64_t i = 0; i < count; ++i) out.places.emplace(edits.row_ids[static_cast<size_t>(i)], i);
  bytes_ += std::ssize(edits.rows);
}

void ServedOverlay::apply(int layer, std::span<const int64_t> row_ids, torch::Tensor rows) const {
  const Layer& edited = at(layer);
  std::vector<int64_t> to, from;
  for (size_t i = 0; i < row_ids.size() && !edited.places.empty(); ++i) {
    const auto place = edited.places.find(row_ids[i]);
    if (place == edited.places.end()) continue;
    to.push_back(static_cast<int64_t>(i));
    from.push_back(place->second);
  }
  if (to.empty()) return;
  const torch::Tensor values = edited.values.index_select(0, torch::tensor(from, torch::kLong)).to(rows.scalar_type());
  rows.index_copy_(0, copy_ahead(torch::tensor(to, torch::kLong), rows.device()), copy_ahead(values, rows.device()));
}

int64_t ServedOverlay::num_rows() const {
  int64_t count = 0;
  for (const Layer& layer : layers_) count += std::ssize(layer.places);
  return count;
}

}  // namespace engram
