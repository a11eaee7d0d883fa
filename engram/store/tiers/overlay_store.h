// Overlays: a few edited rows in front of a table, whose file stays as it is. File: docs/formats/overlay.md.
#pragma once
#include <atomic>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "engram/core/env.h"
#include "engram/store/row_store.h"
#include "engram/store/rowfile/row_file.h"

namespace engram {

// What an overlay's file holds. Plain value.
struct Overlay {
  struct Layer {
    int layer_id = 0;
    std::vector<int64_t> row_ids;    // ascending, each once
    std::vector<std::byte> rows;     // [n, row_bytes], encoded as the table's
    std::vector<uint32_t> replaced;  // [n] CRC-32C of the rows that these take the place of
  };
  std::string path;  // for messages
  std::vector<Layer> layers;

  // kFailedPrecondition: made for a table with another header. kDataLoss: what, got, wanted.
  static Result<Overlay> load(Env& env, const std::string& path, const RowFileInfo& table);
  // One more layer: values [n, width], encoded as the table's rows. row_ids ascend. kInvalidArgument, kNotFound;
  // kDataLoss of the table.
  Status add_values(const RowFileReader& table, int layer_id, const std::vector<int64_t>& row_ids,
                    std::span<const float> values);
  // REQUIRES: layers of the table, rows of their sizes.
  Status save(Env& env, const RowFileInfo& table) const;
};

// A store with the rows of overlays in front. Rows elsewhere are the store's, to the bit. A read of an edited row reads
// the row below too: its page has to be good.
class OverlayStore final : public RowStore {
 public:
  // Overlays in their order; of two rows the later one counts. kFailedPrecondition: an overlay replaces bytes that
  // neither the store nor an overlay before it has, so it was made for another table.
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
  Status add(const Overlay::Layer& layer, const std::string& path);
  Pending patch(Pending below, std::span<const int64_t> row_ids, std::span<std::byte> out);

  std::unordered_map<int64_t, std::vector<std::byte>> rows_;
  std::atomic<uint64_t> hits_{0}, misses_{0};
  const std::unique_ptr<RowStore> base_;  // last: what its reads end with uses the others
};

}  // namespace engram
