// CachedStore: a store in front of a slower one. Rows come from a hot set (chosen beforehand from a profile of real
// text, never evicted), else from a cache of recent rows (row_cache.h), else from the store below.
//
// A row that is on its way from below, for any caller or for a hint, is not asked for again: later reads wait for it.
// If that first read fails, each reads for itself, so that no caller sees another's error. Rows on their way are
// bounded: read() blocks, and hints are dropped.
#pragma once
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "engram/core/env.h"
#include "engram/store/row_store.h"
#include "engram/store/tiers/drive_store.h"
#include "engram/store/tiers/row_cache.h"

namespace engram {

// The rows of a layer that a profile names, most used first: tensor `layers.{layer_id}.row_ids`, I64 [n], of a
// safetensors file (docs/formats/row_profile.md). token_map_sha256: of the table, "" where it has none.
// kDataLoss: an id out of range or repeated; kFailedPrecondition: a profile of another tokenizer.
Result<std::vector<int64_t>> read_row_profile(Env& env, const std::string& path, int layer_id, int64_t num_rows,
                                              const std::string& token_map_sha256);

// Rows packed on huge pages, found by id. Immutable; threads may share one.
class HotSet {
 public:
  // Reads the rows from `store`. Bytes per row: row_bytes + 8 (id) + 8 to 16 (index).
  static Result<std::unique_ptr<HotSet>> load(RowStore& store, std::vector<int64_t> row_ids);
  // Rows that fit into a budget.
  static int64_t rows_for(int64_t budget_bytes, size_t row_bytes);

  const std::byte* find(int64_t id) const;  // null: not there
  int64_t size() const { return static_cast<int64_t>(ids_.size()); }

 private:
  HotSet() = default;
  size_t row_bytes_ = 0;
  std::vector<int64_t> ids_;
  std::vector<int32_t> index_;  // open addressing; -1 is empty
  HugeMemory rows_;
};

class CachedStore final : public RowStore {
 public:
  // Either of `hot` and `cache` may be null.
  CachedStore(std::unique_ptr<RowStore> base, std::unique_ptr<HotSet> hot, std::unique_ptr<RowCache> cache);
  ~CachedStore() override;

  void prefetch(std::span<const int64_t> row_ids) override;
  Pending read(std::span<const int64_t> row_ids, std::span<std::byte> out) override;
  void locate(std::span<const int64_t> row_ids, std::span<uint8_t> tiers) const override;
  int64_t num_rows() const override { return base_->num_rows(); }
  size_t row_bytes() const override { return base_->row_bytes(); }
  StoreStats stats() const override;

 private:
  struct Read;   // a read() that waits for rows from below
  struct Fetch;  // rows on their way from below
  struct Want;   // what a Read takes from a Fetch

  bool serve(Read& read, std::span<const RowTarget> same_row);
  void fetch_missing(const std::shared_ptr<Read>& read);
  size_t join_or_claim(const std::shared_ptr<Read>& read, size_t begin, const std::shared_ptr<Fetch>& fetch);
  void start_fetch(const std::shared_ptr<Fetch>& fetch, bool may_block);
  void end_fetch(Fetch& fetch, const Status& status);
  void read_alone(const std::shared_ptr<Want>& want);
  bool has_room() const;
  void end_part(Read& read, const Status& status);

  const std::unique_ptr<RowStore> base_;
  const std::unique_ptr<HotSet> hot_;
  const std::unique_ptr<RowCache> cache_;
  const std::shared_ptr<StoreCounters> counters_ = std::make_shared<StoreCounters>();
  std::atomic<uint64_t> hot_rows_{0}, cache_rows_{0}, fetched_rows_{0};
  std::atomic<uint64_t> requested_{0}, dropped_{0}, useless_{0}, used_{0}, late_{0};

  std::mutex mutex_;
  std::condition_variable room_;
  std::unordered_map<int64_t, std::pair<std::shared_ptr<Fetch>, size_t>> under_way_;  // row: its place in a Fetch
  InFlight in_flight_;
};

}  // namespace engram
