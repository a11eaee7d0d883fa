#include "engram/store/tiers/drive_store.h"

#include <algorithm>

#include "engram/core/exceptions.h"

namespace engram {
namespace {

uint64_t count_unique(std::span<const RowTarget> targets) {
  uint64_t unique = 0;
  for (size_t i = 0; i < targets.size(); ++i) unique += i == 0 || targets[i].row != targets[i - 1].row;
  return unique;
}

}  // namespace

Result<std::shared_ptr<DriveFile>> DriveFile::open(const std::string& path, const DriveOptions& options) {
  if (options.max_queued_rows < 1)
    return invalid_argument("max_queued_rows is {}, wanted at least 1", options.max_queued_rows);
  ENGRAM_ASSIGN_OR_RETURN(auto reader, open_page_reader(path, options.reader));
  std::shared_ptr<DriveFile> file(new DriveFile);
  file->path_ = path;
  file->is_direct_ = options.reader.direct;
  ENGRAM_ASSIGN_OR_RETURN(file->info_, RowFileInfo::read(reader->file(), path));
  const Status started = catch_exceptions([&] {
    file->queue_ = std::make_unique<PageQueue>(std::move(reader), path, options.max_queued_rows);
    return Status();
  });
  ENGRAM_RETURN_IF_ERROR(started.with_context(path));
  return file;
}

void InFlight::add() {
  std::lock_guard lock(mutex_);
  ++count_;
}
void InFlight::remove() {
  std::lock_guard lock(mutex_);  // held while notifying: the waiter may destroy this as soon as it has the lock
  if (--count_ == 0) none_.notify_all();
}
void InFlight::wait_for_none() {
  std::unique_lock lock(mutex_);
  none_.wait(lock, [&] { return count_ == 0; });
}

DriveStore::DriveStore(std::shared_ptr<DriveFile> file, int table)
    : file_(std::move(file)), table_(file_->info().tables[static_cast<size_t>(table)]) {}

DriveStore::~DriveStore() { in_flight_.wait_for_none(); }

Pending DriveStore::start(std::span<const int64_t> row_ids, std::span<std::byte> out, bool may_block) {
  const auto begin = std::chrono::steady_clock::now();
  if (Status status = check_read(*this, row_ids, out); !status.ok()) {
    counters_->failed_reads.fetch_add(1, std::memory_order_relaxed);
    return status;
  }
  std::vector<RowTarget> targets = sort_targets(row_ids);
  const uint64_t rows = targets.size(), unique = count_unique(targets);
  read_resident(targets, out.data());
  const uint64_t from_drive = targets.size();
  const auto count = [=, this] {
    resident_rows_.fetch_add(rows - from_drive, std::memory_order_relaxed);
    drive_rows_.fetch_add(from_drive, std::memory_order_relaxed);
    counters_->count_read(rows, unique, begin);
  };
  if (targets.empty()) {
    count();
    return Status();
  }
  const Completion completion(std::shared_ptr<LatencyHistogram>(counters_, &counters_->stall));
  Pending pending = completion.pending();
  in_flight_.add();
  const auto done = [=, this](const Status& status, int64_t pages, int64_t retries) {
    drive_pages_.fetch_add(static_cast<uint64_t>(pages + retries), std::memory_order_relaxed);
    counters_->retries.fetch_add(static_cast<uint64_t>(retries), std::memory_order_relaxed);
    if (status.ok())
      count();
    else
      counters_->failed_reads.fetch_add(1, std::memory_order_relaxed);
    completion.finish(status);
    in_flight_.remove();
  };
  PageBatch batch{&table_, std::move(targets), out.data(), done};
  if (may_block) {
    file_->queue().add(std::move(batch));
  } else if (!file_->queue().try_add(std::move(batch))) {
    completion.finish(make_status(StatusCode::kUnavailable, "{}: the queue is full", file_->path()));
    in_flight_.remove();
  }
  return pending;
}

TierStats DriveStore::drive_stats() const {
  TierStats tier;
  tier.name = "drive";
  tier.hits = drive_rows_.load(std::memory_order_relaxed);
  tier.pages = drive_pages_.load(std::memory_order_relaxed);
  tier.bytes = tier.pages * kRowPageBytes;
  return tier;
}

Result<std::unique_ptr<NvmeStore>> NvmeStore::open(std::shared_ptr<DriveFile> file, int layer_id) {
  ENGRAM_ASSIGN_OR_RETURN(const int table, file->info().find_layer(layer_id));
  return std::unique_ptr<NvmeStore>(new NvmeStore(std::move(file), table));
}

StoreStats NvmeStore::stats() const {
  StoreStats stats = counters_->snapshot();
  stats.tiers = {drive_stats()};
  return stats;
}

Result<std::unique_ptr<PageCacheStore>> PageCacheStore::open(std::shared_ptr<DriveFile> file, int layer_id) {
  if (file->is_direct()) return invalid_argument("{}: opened past the page cache", file->path());
  ENGRAM_ASSIGN_OR_RETURN(const int table, file->info().find_layer(layer_id));
  return std::unique_ptr<PageCacheStore>(new PageCacheStore(std::move(file), table));
}

// The rows of one page. False: some of it is not in memory, or not what its checksum says.
bool PageCacheStore::serve_page(std::span<const RowTarget> run, bool trusts, std::byte* out) {
  alignas(64) std::byte page[kRowPageBytes];
  const PageReader& reader = file_->queue().reader();
  const auto row_bytes = static_cast<size_t>(table_.row_bytes);
  const int64_t row = run.front().row, first_page = table_.page_of(row);
  for (int64_t segment = 0; segment < table_.pages_per_row; ++segment) {
    const int64_t number = first_page + segment;
    if (trusts && row == run.back().row && checked_.has(number)) {
      const size_t done = static_cast<size_t>(segment * kRowPagePayload);
      const size_t size = std::min(static_cast<size_t>(kRowPagePayload), row_bytes - done);
      std::byte* const first = out + static_cast<size_t>(run.front().index) * row_bytes + done;
      const int64_t offset =
          table_.rows_per_page > 0 ? (row - (number - table_.first_page) * table_.rows_per_page) * table_.row_bytes : 0;
      if (reader.read_resident(number, offset, {first, size}) != static_cast<int64_t>(size)) return false;
      for (const RowTarget& other : run.subspan(1))
        std::copy_n(first, size, out + static_cast<size_t>(other.index) * row_bytes + done);
      continue;
    }
    if (reader.read_resident(number, 0, page) != kRowPageBytes || !check_row_page(page, number, file_->path()).ok())
      return false;
    checked_.add(number);
    copy_from_page(table_, run, segment, page, out);
  }
  return true;
}

// Moves the targets that were not served to the front, and gives their number.
size_t PageCacheStore::serve_pages(std::vector<RowTarget>& targets, bool trusts, std::byte* out) {
  uint64_t pages = 0;
  size_t kept = 0;
  for (size_t begin = 0; begin < targets.size();) {
    const size_t end = end_of_page(table_, targets, begin);
    // What fails here is read again by the I/O thread, which reports it if it fails there too.
    if (serve_page(std::span(targets).subspan(begin, end - begin), trusts, out)) {
      pages += static_cast<uint64_t>(table_.pages_per_row);
    } else {
      for (size_t i = begin; i < end; ++i) std::swap(targets[kept++], targets[i]);
    }
    begin = end;
  }
  resident_pages_.fetch_add(pages, std::memory_order_relaxed);
  return kept;
}

// Rows of pages that were checked before count only if the file is still what was checked (MappedStore::read_rows).
void PageCacheStore::read_resident(std::vector<RowTarget>& targets, std::byte* out) {
  const bool trusts = !has_changed_.load(std::memory_order_relaxed);
  const size_t kept = serve_pages(targets, trusts, out);
  if (!trusts || !file_->queue().reader().has_changed()) return targets.resize(kept);
  has_changed_ = true;
  std::sort(targets.begin(), targets.end(), [](const RowTarget& a, const RowTarget& b) { return a.row < b.row; });
  targets.resize(serve_pages(targets, false, out));
}

void PageCacheStore::prefetch(std::span<const int64_t> row_ids) {
  std::vector<int64_t> valid;
  for (int64_t id : row_ids) {
    if (id >= 0 && id < table_.num_rows) valid.push_back(id);
  }
  if (valid.empty()) return;
  prefetch_requested_.fetch_add(valid.size(), std::memory_order_relaxed);
  in_flight_.add();
  const auto done = [this](const Status& /*a hint's failure*/, int64_t pages, int64_t retries) {
    drive_pages_.fetch_add(static_cast<uint64_t>(pages + retries), std::memory_order_relaxed);
    in_flight_.remove();
  };
  if (file_->queue().try_add({&table_, sort_targets(valid), nullptr, done})) return;
  prefetch_dropped_.fetch_add(valid.size(), std::memory_order_relaxed);
  in_flight_.remove();
}

bool PageCacheStore::is_resident(int64_t row) const {
  const int64_t first_page = table_.page_of(row);
  std::byte byte[1];
  for (int64_t segment = 0; segment < table_.pages_per_row; ++segment) {
    if (file_->queue().reader().read_resident(first_page + segment, 0, byte) != 1) return false;
  }
  return true;
}

void PageCacheStore::locate(std::span<const int64_t> row_ids, std::span<uint8_t> tiers) const {
  ENGRAM_CHECK(tiers.size() == row_ids.size(), "{} tiers for {} rows", tiers.size(), row_ids.size());
  for (size_t i = 0; i < row_ids.size(); ++i) {
    const bool in_range = row_ids[i] >= 0 && row_ids[i] < table_.num_rows;
    tiers[i] = in_range && is_resident(row_ids[i]) ? 0 : 1;  // as in stats()
  }
}

StoreStats PageCacheStore::stats() const {
  StoreStats stats = counters_->snapshot();
  TierStats memory;
  memory.name = "page_cache";
  memory.hits = resident_rows_.load(std::memory_order_relaxed);
  memory.misses = drive_rows_.load(std::memory_order_relaxed);
  memory.pages = resident_pages_.load(std::memory_order_relaxed);
  memory.bytes = memory.pages * kRowPageBytes;
  stats.tiers = {memory, drive_stats()};
  stats.prefetch.requested = prefetch_requested_.load(std::memory_order_relaxed);
  stats.prefetch.dropped = prefetch_dropped_.load(std::memory_order_relaxed);
  return stats;
}

}  // namespace engram
