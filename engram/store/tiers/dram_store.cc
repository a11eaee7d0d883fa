#include "engram/store/tiers/dram_store.h"

#include <algorithm>
#include <cstring>
#include <thread>

#include "engram/core/exceptions.h"

namespace engram {
namespace {

// Far enough ahead to hide a DRAM access behind the copies of the rows between.
constexpr size_t kAhead = 8;
constexpr size_t kLine = 64;

inline void fetch_row(const std::byte* row, size_t row_bytes) {
  for (size_t at = 0; at < row_bytes; at += kLine) __builtin_prefetch(row + at);
  __builtin_prefetch(row + row_bytes - 1);  // rows need not begin at a line
}

// out[i] = rows[ids[i]], rows back to back. memcpy beats copies of a constant size, which the baseline instruction set
// would make of narrow moves.
void gather_rows(const std::byte* rows, size_t row_bytes, std::span<const int64_t> row_ids, std::byte* out) {
  const size_t count = row_ids.size();
  const auto row = [&](size_t i) { return rows + static_cast<size_t>(row_ids[i]) * row_bytes; };
  for (size_t i = 0; i < std::min(kAhead, count); ++i) fetch_row(row(i), row_bytes);
  for (size_t i = 0; i < count; ++i) {
    if (i + kAhead < count) fetch_row(row(i + kAhead), row_bytes);
    std::memcpy(out + i * row_bytes, row(i), row_bytes);
  }
}

// Rows [begin, end) of the table into `rows`, a piece at a time.
Status fill_rows(const DramStore::Fill& fill, int64_t row_bytes, int64_t begin, int64_t end, std::byte* rows) {
  const int64_t step = std::max<int64_t>(1, (int64_t{4} << 20) / row_bytes);
  for (int64_t row = begin; row < end; row += step) {
    const int64_t count = std::min(step, end - row);
    ENGRAM_RETURN_IF_ERROR(fill(row, count, {rows + row * row_bytes, static_cast<size_t>(count * row_bytes)}));
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<DramStore>> DramStore::open(Env& env, const std::string& path, int layer_id, int threads) {
  ENGRAM_ASSIGN_OR_RETURN(const RowFileReader reader, RowFileReader::open(env, path));
  ENGRAM_ASSIGN_OR_RETURN(const int table, reader.info().find_layer(layer_id));
  const auto read = [&](int64_t first, int64_t count, std::span<std::byte> rows) {
    return reader.read_rows(table, first, count, rows);
  };
  return create(reader.info().tables[static_cast<size_t>(table)], read, path, threads);
}

Result<std::unique_ptr<DramStore>> DramStore::create(const RowTable& table, const Fill& fill, const std::string& name,
                                                     int threads) {
  std::unique_ptr<DramStore> store(new DramStore);
  store->table_ = table;
  ENGRAM_ASSIGN_OR_RETURN(store->rows_,
                          HugeMemory::allocate(static_cast<size_t>(table.num_rows * table.row_bytes), name.c_str()));
  std::byte* rows = store->rows_.bytes().data();
  const int64_t parts = threads > 0 ? threads : std::max(1u, std::thread::hardware_concurrency());
  std::vector<Status> results(static_cast<size_t>(parts));
  const auto fill_part = [&](int64_t part) {
    const int64_t share = table.num_rows / parts, extra = table.num_rows % parts;
    const int64_t begin = part * share + std::min(part, extra), end = begin + share + (part < extra ? 1 : 0);
    results[static_cast<size_t>(part)] =
        catch_exceptions([&] { return fill_rows(fill, table.row_bytes, begin, end, rows); });
  };
  std::vector<std::thread> workers;
  workers.reserve(static_cast<size_t>(parts));
  for (int64_t part = 0; part < parts; ++part) {
    try {
      workers.emplace_back(fill_part, part);
    } catch (const std::system_error&) {  // the system has no thread for us
      fill_part(part);
    }
  }
  for (std::thread& worker : workers) worker.join();
  for (const Status& result : results) ENGRAM_RETURN_IF_ERROR(result);
  return store;
}

Pending DramStore::read(std::span<const int64_t> row_ids, std::span<std::byte> out) {
  const auto start = std::chrono::steady_clock::now();
  if (Status status = check_read(*this, row_ids, out); !status.ok()) {
    counters_.failed_reads.fetch_add(1, std::memory_order_relaxed);
    return status;
  }
  gather_rows(rows_.bytes().data(), row_bytes(), row_ids, out.data());
  counters_.count_read(row_ids.size(), row_ids.size(), start);
  counters_.stall.record(std::chrono::steady_clock::now() - start);
  return Status();
}

StoreStats DramStore::stats() const {
  StoreStats stats = counters_.snapshot();
  TierStats tier;
  tier.name = "dram";
  tier.hits = stats.rows;
  tier.bytes = stats.rows * row_bytes();
  tier.resident_rows = static_cast<uint64_t>(table_.num_rows);
  tier.resident_bytes = rows_.bytes().size();
  stats.tiers = {tier};
  return stats;
}

}  // namespace engram
