// OverlayStore: a few edited rows in front of a table, whose file stays as it is.
#pragma once
#include <atomic>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "engram/store/row_store.h"
#include "engram/store/rowfile/overlay_file.h"

namespace engram {

// One more layer of an overlay: values [n, width], encoded as the table's rows. row_ids ascend. kInvalidArgument,
// kNotFound; kDataLoss of the table.
Status add_values(const RowFileReader& table, int layer_id, const std::vector<int64_t>& row_ids,
                  std::span<const float> values, Overlay& overlay);

using EditedRows = std::unordered_map<int64_t, std::vector<std::byte>>;
// Puts the rows of one more overlay into `rows`, those of `base` that earlier overlays edit; the later one counts.
// kFailedPrecondition: it replaces bytes that neither `base` nor `rows` has, so it was made for another table.
Status add_edits(RowStore& base, const Overlay::Layer& layer, const std::string& path, EditedRows& rows);

// A store with the rows of overlays in front. Rows elsewhere are the store's, to the bit. A read of an edited row reads
// the row below too: its page has to be good.
class OverlayStore final : public RowStore {
 public:
  // Overlays in their order. kFailedPrecondition: of add_edits().
  static Result<std::unique_ptr<OverlayStore>> create(std::unique_ptr<RowStore> base,
                                                      const std::vector<Overlay>& overlays, int layer_id);

  void prefetch(std::span<const int64_t> row_ids) override { base_->prefetch(row_ids); }
  Pending read(std::span<const int64_t> row_ids, std::span<std::byte> out) override {
    return patch(base_->read(row_ids, out), row_ids, out);
  }
  Pending try_read(std::span<const int64_t> row_ids, std::span<std::byte> out) override {
    return patch(base_->try_read(row_ids, out), row_ids, out);
  }
  void locate(std::span<const int64_t> row_ids, std::span<uint8_t> tiers) const override;
  int64_t num_rows() const override { return base_->num_rows(); }
  size_t row_bytes() const override { return base_->row_bytes(); }
  StoreStats stats() const override;

 private:
  explicit OverlayStore(std::unique_ptr<RowStore> base) : base_(std::move(base)) {}
  Pending patch(Pending below, std::span<const int64_t> row_ids, std::span<std::byte> out);

  EditedRows rows_;
  std::atomic<uint64_t> hits_{0}, misses_{0};
  const std::unique_ptr<RowStore> base_;  // last: what its reads end with uses the others
};

}  // namespace engram
