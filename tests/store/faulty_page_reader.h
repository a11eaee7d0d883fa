// FaultyPageReader: a PageReader that fails on purpose, between PageQueue and the real one.
//
// Faults depend on the page and on how often it was read, never on time; completions come back in an order that a
// seed gives.
#pragma once
#include <cerrno>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <utility>
#include <vector>

#include "engram/store/rowfile/page_reader.h"
#include "engram/store/rowfile/row_file.h"

namespace engram {

enum class PageFault { kNone, kError, kShort, kFlip, kWrongPage };

struct PageFaultPlan {
  // The fault of the n-th read (from 0) of a page; any thread. Empty: none.
  std::function<PageFault(int64_t page, int64_t attempt)> fault;
  bool reorder = false;  // hold completions back and give them in random order
  uint64_t seed = 1;
};

class FaultyPageReader final : public PageReader {
 public:
  FaultyPageReader(std::unique_ptr<PageReader> base, PageFaultPlan plan)
      : base_(std::move(base)), plan_(std::move(plan)), random_(plan_.seed), pages_(base_->depth()) {}

  const char* name() const override { return base_->name(); }
  int depth() const override { return base_->depth(); }
  std::span<std::byte> buffer(int slot) override { return base_->buffer(slot); }
  void start(int slot, int64_t page) override {
    pages_[static_cast<size_t>(slot)] = page;
    ++in_flight_;
    base_->start(slot, page);
  }
  void wait(std::vector<PageDone>& done) override {
    const bool hold = plan_.reorder && !held_.empty() && (in_flight_ == 0 || random_() % 2 == 0);
    if (!hold) {
      std::vector<PageDone> ended;
      base_->wait(ended);
      in_flight_ -= static_cast<int64_t>(ended.size());
      for (PageDone& read : ended) {
        const int64_t page = pages_[static_cast<size_t>(read.slot)];
        read.result = damage(page, read.result, base_->buffer(read.slot));
        (plan_.reorder ? held_ : done).push_back(read);
      }
    }
    if (held_.empty()) return;
    std::swap(held_[random_() % held_.size()], held_.back());
    done.push_back(held_.back());
    held_.pop_back();
  }
  void wake() override { base_->wake(); }
  // Whole pages only: of a part the page has been checked, and memory is trusted then.
  int64_t read_resident(int64_t page, int64_t offset, std::span<std::byte> out) const override {
    const int64_t result = base_->read_resident(page, offset, out);
    return result < 0 || out.size() < static_cast<size_t>(kRowPageBytes) ? result : damage(page, result, out);
  }
  bool has_changed() const override { return base_->has_changed(); }
  const RandomAccessFile& file() const override { return base_->file(); }

 private:
  int64_t damage(int64_t page, int64_t result, std::span<std::byte> bytes) const {
    if (!plan_.fault) return result;
    int64_t attempt;
    {
      std::lock_guard lock(mutex_);
      attempt = attempts_[page]++;
    }
    switch (plan_.fault(page, attempt)) {
      case PageFault::kNone: return result;
      case PageFault::kError: return -EIO;
      case PageFault::kShort: return result / 2;
      case PageFault::kFlip: bytes[static_cast<size_t>(page) % bytes.size()] ^= std::byte{8}; return result;
      case PageFault::kWrongPage: return base_->file().read_at(0, bytes).ok() ? result : -EIO;
    }
    return result;
  }

  const std::unique_ptr<PageReader> base_;
  const PageFaultPlan plan_;
  std::mt19937_64 random_;
  std::vector<int64_t> pages_;  // [depth] the page a slot reads
  std::vector<PageDone> held_;
  int64_t in_flight_ = 0;  // in base_
  mutable std::mutex mutex_;
  mutable std::map<int64_t, int64_t> attempts_;
};

}  // namespace engram
