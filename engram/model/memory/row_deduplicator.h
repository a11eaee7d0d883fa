// RowDeduplicator: each id of a batch once.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace engram {

// De-duplicates ids in first-seen order, through a hash table of one call's ids: its memory, at most 256 bytes an id,
// grows with the largest batch and not with the table. Reused across calls; one thread.
class RowDeduplicator {
 public:
  explicit RowDeduplicator(int64_t num_rows) : num_rows_(num_rows) {}
  // unique [U] and index [n] are resized; ids must lie in [0, num_rows), else c10::Error.
  void run(std::span<const int64_t> row_ids, std::vector<int64_t>& unique, std::vector<int64_t>& index);

 private:
  struct Entry {
    uint32_t position = 0;  // in unique
    uint32_t call = 0;      // which put it there; entries of other calls are free
  };
  int64_t num_rows_;
  uint32_t call_ = 0;
  std::vector<Entry> entries_;
};

}  // namespace engram
