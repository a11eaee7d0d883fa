#include "engram/model/memory/row_deduplicator.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <bit>
#include <limits>

namespace engram {

void RowDeduplicator::run(std::span<const int64_t> row_ids, std::vector<int64_t>& unique, std::vector<int64_t>& index) {
  TORCH_CHECK(row_ids.size() <= size_t{std::numeric_limits<int32_t>::max()}, "engram table: got ", row_ids.size(),
              " row ids in one call, wanted at most 2^31 - 1");
  constexpr size_t kAhead = 16;
  // A quarter of the entries is taken at most. A table not much larger has an entry for each row: no id meets another.
  size_t size = std::bit_ceil(std::max<size_t>(4 * row_ids.size(), 16));
  uint64_t factor = 0x9E3779B97F4A7C15;
  int shift = 64 - std::countr_zero(size);
  if (static_cast<uint64_t>(num_rows_) <= 4 * size) {
    size = static_cast<size_t>(num_rows_);
    factor = 1;
    shift = 0;
  }
  if (++call_ == 0) {  // the numbers of calls begin again
    std::ranges::fill(entries_, Entry());
    call_ = 1;
  }
  if (entries_.size() < size) entries_.assign(size, Entry());
  unique.resize(row_ids.size());
  index.resize(row_ids.size());
  const auto entry_of = [&](int64_t id) { return static_cast<size_t>((static_cast<uint64_t>(id) * factor) >> shift); };
  uint32_t count = 0;
  for (size_t i = 0; i < row_ids.size(); ++i) {
    if (i + kAhead < row_ids.size()) {
      if (const size_t ahead = entry_of(row_ids[i + kAhead]); ahead < size) __builtin_prefetch(&entries_[ahead], 1);
    }
    const int64_t id = row_ids[i];
    TORCH_CHECK(id >= 0 && id < num_rows_, "engram table: got row id ", id, ", wanted 0 <= id < ", num_rows_,
                " (the table's rows)");
    size_t at = entry_of(id);
    while (entries_[at].call == call_ && unique[entries_[at].position] != id) at = (at + 1) & (size - 1);
    Entry& entry = entries_[at];
    if (entry.call != call_) {
      entry = {count, call_};
      unique[count++] = id;
    }
    index[i] = entry.position;
  }
  unique.resize(count);
}

}  // namespace engram
