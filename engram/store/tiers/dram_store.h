// DramStore: a layer's rows in memory, back to back on huge pages; loaded once, every page's checksum compared.
// MappedStore: the same rows through a mapping of the file.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/store/row_store.h"
#include "engram/store/rowfile/checked_pages.h"
#include "engram/store/rowfile/row_file.h"
#include "engram/store/tiers/huge_memory.h"

namespace engram {

// Reads are over when read() returns.
class DramStore final : public RowStore {
 public:
  // threads: that load; 0 is one per core. kResourceExhausted: the rows are more than the memory there is; kDataLoss.
  static Result<std::unique_ptr<DramStore>> open(Env& env, const std::string& path, int layer_id, int threads = 0);

  // Rows that are in no file: fill(first row, count, their bytes) makes them, from several threads.
  using Fill = std::function<Status(int64_t first, int64_t count, std::span<std::byte> rows)>;
  static Result<std::unique_ptr<DramStore>> create(const RowTable& table, const Fill& fill, const std::string& name,
                                                   int threads = 0);

  void prefetch(std::span<const int64_t> /*row_ids*/) override {}
  Pending read(std::span<const int64_t> row_ids, std::span<std::byte> out) override;
  int64_t num_rows() const override { return table_.num_rows; }
  size_t row_bytes() const override { return static_cast<size_t>(table_.row_bytes); }
  StoreStats stats() const override;
  std::span<const std::byte> rows() const { return rows_.bytes(); }  // for measurements on the same pages

 private:
  DramStore() = default;
  RowTable table_;
  HugeMemory rows_;
  StoreCounters counters_;
};

// Opt-in: for a table that the page cache holds. Reads wait for the drive inside read(). A page is checked when first
// used. Once the file is written to, cut or unreadable, every page is checked at every read, and a row on a bad page is
// kDataLoss with file and page; one on a good page is served. Writes through another process's mapping show late.
class MappedStore final : public RowStore {
 public:
  static Result<std::unique_ptr<MappedStore>> open(Env& env, const std::string& path, int layer_id);

  void prefetch(std::span<const int64_t> row_ids) override;  // asks the system to read the pages
  Pending read(std::span<const int64_t> row_ids, std::span<std::byte> out) override;
  // Where a page is not in memory: asks the system for all of them and refuses.
  Pending try_read(std::span<const int64_t> row_ids, std::span<std::byte> out) override;
  int64_t num_rows() const override { return table_.num_rows; }
  size_t row_bytes() const override { return static_cast<size_t>(table_.row_bytes); }
  StoreStats stats() const override;

 private:
  MappedStore() = default;
  const std::byte* page(int64_t number) const;
  Status check_page(int64_t number);
  std::span<std::byte> pages_of(int64_t row) const;
  bool is_resident(int64_t row) const;
  template <typename Checked>
  void copy_rows(std::span<const int64_t> row_ids, std::span<std::byte> out, const Checked& checked) const;
  Status read_rows(std::span<const int64_t> row_ids, std::span<std::byte> out);

  std::string path_;
  RowTable table_;
  std::unique_ptr<MappedFile> file_;
  std::unique_ptr<CheckedPages> checked_;
  std::atomic<bool> has_changed_{false};  // checked_ means nothing any more
  StoreCounters counters_;
  std::atomic<uint64_t> prefetched_{0};
};

}  // namespace engram
