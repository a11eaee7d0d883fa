// CheckedPages: which pages of a table had the right checksum when they were first used.
#pragma once
#include <atomic>
#include <cstdint>
#include <vector>

#include "engram/store/rowfile/row_file.h"

namespace engram {

// A bit for each page. Thread-safe.
class CheckedPages {
 public:
  explicit CheckedPages(const RowTable& table)
      : first_page_(table.first_page), words_(static_cast<size_t>(table.num_pages + 63) / 64) {}

  // REQUIRES: a page of the table.
  bool has(int64_t page) const { return (word(page).load(std::memory_order_relaxed) & bit(page)) != 0; }
  void add(int64_t page) { words_[index(page)].fetch_or(bit(page), std::memory_order_relaxed); }

 private:
  size_t index(int64_t page) const { return static_cast<size_t>(page - first_page_) / 64; }
  const std::atomic<uint64_t>& word(int64_t page) const { return words_[index(page)]; }
  uint64_t bit(int64_t page) const { return uint64_t{1} << (static_cast<uint64_t>(page - first_page_) % 64); }

  int64_t first_page_;
  std::vector<std::atomic<uint64_t>> words_;
};

}  // namespace engram
