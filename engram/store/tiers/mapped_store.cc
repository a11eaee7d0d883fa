#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "engram/port/memory.h"
#include "engram/store/rowfile/page_queue.h"
#include "engram/store/tiers/dram_store.h"

namespace engram {
namespace {

// A mapping that is there already, as the file that RowFileInfo::read() wants.
class BytesFile final : public RandomAccessFile {
 public:
  explicit BytesFile(std::span<const std::byte> bytes) : bytes_(bytes) {}
  Result<size_t> read_at(int64_t offset, std::span<std::byte> out) const override {
    const auto begin = std::min(static_cast<size_t>(offset), bytes_.size());
    const auto part = bytes_.subspan(begin, std::min(out.size(), bytes_.size() - begin));
    std::copy(part.begin(), part.end(), out.begin());
    return part.size();
  }
  Result<int64_t> size() const override { return static_cast<int64_t>(bytes_.size()); }

 private:
  const std::span<const std::byte> bytes_;
};

}  // namespace

Result<std::unique_ptr<MappedStore>> MappedStore::open(Env& env, const std::string& path, int layer_id) {
  std::unique_ptr<MappedStore> store(new MappedStore);
  store->path_ = path;
  ENGRAM_ASSIGN_OR_RETURN(store->file_, env.map_file(path));
  const std::span<const std::byte> bytes = store->file_->bytes();
  ENGRAM_ASSIGN_OR_RETURN(const RowFileInfo info, RowFileInfo::read(BytesFile(bytes), path));
  ENGRAM_ASSIGN_OR_RETURN(const int table, info.find_layer(layer_id));
  store->table_ = info.tables[static_cast<size_t>(table)];
  store->checked_ = std::make_unique<CheckedPages>(store->table_);
  // A hint: single pages are wanted, no read-ahead.
  (void)::posix_madvise(const_cast<std::byte*>(bytes.data()), bytes.size(), POSIX_MADV_RANDOM);
  return store;
}

const std::byte* MappedStore::page(int64_t number) const { return file_->bytes().data() + number * kRowPageBytes; }

Status MappedStore::check_page(int64_t number) {
  if (checked_->has(number)) return {};
  ENGRAM_RETURN_IF_ERROR(check_row_page({page(number), static_cast<size_t>(kRowPageBytes)}, number, path_));
  checked_->add(number);
  return {};
}

// checked(n) gives the checked bytes of page n, which are used before it is called again, or null, which ends it.
template <typename Checked>
void MappedStore::copy_rows(std::span<const int64_t> row_ids, std::span<std::byte> out, const Checked& checked) const {
  for (size_t i = 0; i < row_ids.size(); ++i) {
    const RowTarget target{row_ids[i], static_cast<int64_t>(i)};
    const int64_t first = table_.page_of(target.row);
    for (int64_t segment = 0; segment < table_.pages_per_row; ++segment) {
      const std::byte* const bytes = checked(first + segment);
      if (bytes == nullptr) return;
      copy_from_page(table_, {&target, 1}, segment, bytes, out.data());
    }
  }
}

// A page's checksum is compared when it is first used and then no more, so what was copied counts only if the file is
// still what was checked. That is asked after the copying: a write shows in the file's time before it shows in a page.
Status MappedStore::read_rows(std::span<const int64_t> row_ids, std::span<std::byte> out) {
  Status status;
  if (!has_changed_.load(std::memory_order_relaxed)) {
    copy_rows(row_ids, out, [&](int64_t number) {
      status = check_page(number);
      return status.ok() ? page(number) : nullptr;
    });
    if (!file_->has_changed() && file_->readable().ok()) return status;
    has_changed_ = true;
    status = Status();
  }
  // From then on every page is copied first and checked then, each time: good pages of the file are still served.
  alignas(64) std::byte copy[kRowPageBytes];
  copy_rows(row_ids, out, [&](int64_t number) -> const std::byte* {
    std::copy_n(page(number), kRowPageBytes, copy);
    const Status page_status = check_row_page(copy, number, path_);
    if (page_status.ok()) return copy;
    status = data_loss("{} (the file was written to or cut while it was open)", page_status.message());
    return nullptr;
  });
  return status;
}

Pending MappedStore::read(std::span<const int64_t> row_ids, std::span<std::byte> out) {
  const auto start = std::chrono::steady_clock::now();
  Status status = check_read(*this, row_ids, out);
  if (status.ok()) status = read_rows(row_ids, out);
  if (!status.ok()) {
    counters_.failed_reads.fetch_add(1, std::memory_order_relaxed);
    return status;
  }
  counters_.count_read(row_ids.size(), row_ids.size(), start);
  counters_.stall.record(std::chrono::steady_clock::now() - start);
  return status;
}

// Of the system, which may be larger than a row file's.
std::span<std::byte> MappedStore::pages_of(int64_t row) const {
  static const auto size = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const std::byte* const at = page(table_.page_of(row));
  const size_t before = reinterpret_cast<uintptr_t>(at) % size;
  return {const_cast<std::byte*>(at) - before, before + static_cast<size_t>(table_.pages_per_row * kRowPageBytes)};
}

void MappedStore::prefetch(std::span<const int64_t> row_ids) {
  for (int64_t id : row_ids) {
    if (id < 0 || id >= table_.num_rows) continue;
    prefetched_.fetch_add(1, std::memory_order_relaxed);
    const auto pages = pages_of(id);
    (void)::posix_madvise(pages.data(), pages.size(), POSIX_MADV_WILLNEED);
  }
}

bool MappedStore::is_resident(int64_t row) const {
  const auto pages = pages_of(row);
  return port::is_in_memory(pages.data(), pages.size());
}

Pending MappedStore::try_read(std::span<const int64_t> row_ids, std::span<std::byte> out) {
  const auto here = [&](int64_t id) { return id < 0 || id >= table_.num_rows || is_resident(id); };
  if (std::all_of(row_ids.begin(), row_ids.end(), here)) return read(row_ids, out);
  prefetch(row_ids);
  return make_status(StatusCode::kUnavailable, "{}: some rows are not in memory yet", path_);
}

StoreStats MappedStore::stats() const {
  StoreStats stats = counters_.snapshot();
  TierStats tier;
  tier.name = "mapped";
  tier.hits = stats.rows;
  tier.bytes = stats.rows * row_bytes();
  stats.tiers = {tier};
  stats.prefetch.requested = prefetched_.load(std::memory_order_relaxed);
  return stats;
}

}  // namespace engram
