// NvmeStore and PageCacheStore: rows read from a row file on a drive, page by page, through one I/O thread per file.
//
// NvmeStore sends every page to the drive: past the page cache (O_DIRECT) unless told otherwise. PageCacheStore keeps
// nothing itself: pages that the system holds in memory are copied by the calling thread (preadv2 with RWF_NOWAIT), the
// rest goes to the I/O thread; what was read stays in the page cache, one copy for all processes, which the system may
// evict. A page that is read whole is checked each time. Of a page in memory that was checked before, a single row is
// copied alone, until the file is written to: then every page is checked at every read. A file that shrinks is an
// error, never a signal. When a file is replaced by rename, the file that was opened is still read.
#pragma once
#include <atomic>
#include <memory>
#include <string>

#include "engram/store/row_store.h"
#include "engram/store/rowfile/checked_pages.h"
#include "engram/store/rowfile/page_queue.h"
#include "engram/store/rowfile/row_file.h"

namespace engram {

struct DriveOptions {
  PageReaderOptions reader;
  int64_t max_queued_rows = int64_t{1} << 22;  // of all callers, before read() blocks; one read may have more
};

// An open row file with its I/O thread, shared by the stores of its layers.
class DriveFile {
 public:
  static Result<std::shared_ptr<DriveFile>> open(const std::string& path, const DriveOptions& options);

  const RowFileInfo& info() const { return info_; }
  const std::string& path() const { return path_; }
  bool is_direct() const { return is_direct_; }  // past the page cache
  PageQueue& queue() { return *queue_; }

 private:
  DriveFile() = default;
  std::string path_;
  bool is_direct_ = false;
  RowFileInfo info_;
  std::unique_ptr<PageQueue> queue_;
};

// Counts the reads in flight of a store, so that its destructor can wait for them.
class InFlight {
 public:
  void add();
  void remove();  // after this the store may be gone
  void wait_for_none();

 private:
  std::mutex mutex_;
  std::condition_variable none_;
  int64_t count_ = 0;
};

class DriveStore : public RowStore {
 public:
  ~DriveStore() override;
  Pending read(std::span<const int64_t> row_ids, std::span<std::byte> out) override {
    return start(row_ids, out, true);
  }
  Pending try_read(std::span<const int64_t> row_ids, std::span<std::byte> out) override {
    return start(row_ids, out, false);
  }
  int64_t num_rows() const override { return table_.num_rows; }
  size_t row_bytes() const override { return static_cast<size_t>(table_.row_bytes); }

 protected:
  DriveStore(std::shared_ptr<DriveFile> file, int table);
  // Serves what needs no drive and removes it from `targets`.
  virtual void read_resident(std::vector<RowTarget>& /*targets*/, std::byte* /*out*/) {}
  Pending start(std::span<const int64_t> row_ids, std::span<std::byte> out, bool may_block);
  TierStats drive_stats() const;

  const std::shared_ptr<DriveFile> file_;
  const RowTable& table_;
  const std::shared_ptr<StoreCounters> counters_ = std::make_shared<StoreCounters>();
  std::atomic<uint64_t> resident_rows_{0}, drive_rows_{0}, drive_pages_{0};
  InFlight in_flight_;
};

class NvmeStore final : public DriveStore {
 public:
  // kNotFound: the file has no such layer.
  static Result<std::unique_ptr<NvmeStore>> open(std::shared_ptr<DriveFile> file, int layer_id);
  void prefetch(std::span<const int64_t> /*row_ids*/) override {}  // there is no memory to put rows into
  StoreStats stats() const override;

 private:
  using DriveStore::DriveStore;
};

class PageCacheStore final : public DriveStore {
 public:
  // kInvalidArgument: the file was opened past the page cache.
  static Result<std::unique_ptr<PageCacheStore>> open(std::shared_ptr<DriveFile> file, int layer_id);
  void prefetch(std::span<const int64_t> row_ids) override;
  // Asks the system for a byte of each page, which it may take for a use of the page.
  void locate(std::span<const int64_t> row_ids, std::span<uint8_t> tiers) const override;
  StoreStats stats() const override;

 private:
  PageCacheStore(std::shared_ptr<DriveFile> file, int table) : DriveStore(std::move(file), table), checked_(table_) {}
  bool is_resident(int64_t row) const;
  void read_resident(std::vector<RowTarget>& targets, std::byte* out) override;
  bool serve_page(std::span<const RowTarget> run, bool trusts, std::byte* out);
  size_t serve_pages(std::vector<RowTarget>& targets, bool trusts, std::byte* out);
  CheckedPages checked_;
  std::atomic<bool> has_changed_{false};  // checked_ means nothing any more
  std::atomic<uint64_t> resident_pages_{0}, prefetch_requested_{0}, prefetch_dropped_{0};
};

}  // namespace engram
