#include "engram/store/row_store.h"

#include <algorithm>

namespace engram {

void RowStore::locate(std::span<const int64_t> row_ids, std::span<uint8_t> tiers) const {
  ENGRAM_CHECK(tiers.size() == row_ids.size(), "{} tiers for {} rows", tiers.size(), row_ids.size());
  std::fill(tiers.begin(), tiers.end(), uint8_t{0});
}

Status check_read(const RowStore& store, std::span<const int64_t> row_ids, std::span<std::byte> out) {
  if (out.size() / store.row_bytes() != row_ids.size() || out.size() % store.row_bytes() != 0)
    return invalid_argument("reading {} rows of {} bytes into {} bytes", row_ids.size(), store.row_bytes(), out.size());
  const auto num_rows = static_cast<uint64_t>(store.num_rows());
  bool good = true;
  for (int64_t id : row_ids) good &= static_cast<uint64_t>(id) < num_rows;
  if (good) return {};
  const auto bad = std::ranges::find_if(row_ids, [&](int64_t id) { return static_cast<uint64_t>(id) >= num_rows; });
  return make_status(StatusCode::kOutOfRange, "row id {} at position {}, wanted 0 .. {}", *bad, bad - row_ids.begin(),
                     num_rows - 1);
}

}  // namespace engram
