// PageQueue: the I/O thread of one row file. Batches of rows go in; their pages are read, checked and taken apart.
//
// Of a batch every distinct page is read once, in file order, as many at a time as the PageReader has slots. Half of
// the slots that come free go to the oldest batch, half to the one with the fewest pages left: a long prefill neither
// stalls a short decode step nor starves. A page that fails (error, short, checksum) is read once more; a second
// failure ends its batch. Bounded: add() blocks while the rows queued would exceed the limit.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "engram/store/rowfile/page_reader.h"
#include "engram/store/rowfile/row_file.h"

namespace engram {

// Rows to read, sorted by row; targets of one row are adjacent and get the same bytes.
struct RowTarget {
  int64_t row = 0;
  int64_t index = 0;  // bytes go to out + index * row_bytes
};

// The targets of a read, sorted.
std::vector<RowTarget> sort_targets(std::span<const int64_t> row_ids);

// The end of the run of targets that start on the page of targets[begin] (for rows of several pages: of its row).
size_t end_of_page(const RowTable& table, std::span<const RowTarget> targets, size_t begin);
// Copies what a page holds of its targets. `segment` counts the pages of a row of several.
void copy_from_page(const RowTable& table, std::span<const RowTarget> targets, int64_t segment, const std::byte* page,
                    std::byte* out);

struct PageBatch {
  const RowTable* table = nullptr;  // outlives the batch
  std::vector<RowTarget> targets;   // not empty
  std::byte* out = nullptr;         // null: read and check only, to warm the page cache
  // Called once, on the I/O thread, without locks. It may add() further batches.
  std::function<void(const Status& status, int64_t pages, int64_t retries)> done;
};

// Thread-safe.
class PageQueue {
 public:
  // max_rows: rows queued at a time; one batch alone may have more.
  PageQueue(std::unique_ptr<PageReader> reader, std::string path, int64_t max_rows);
  ~PageQueue();  // ends every batch first
  PageQueue(const PageQueue&) = delete;
  PageQueue& operator=(const PageQueue&) = delete;

  void add(PageBatch batch);
  // False, and the batch is dropped without a call of done, where add() would block.
  bool try_add(PageBatch batch);

  const PageReader& reader() const { return *reader_; }

 private:
  struct Job;   // a batch under way
  struct Slot;  // a read in flight

  enum class WhenFull { kWait, kRefuse, kExceed };
  bool insert(PageBatch batch, WhenFull when_full);
  void run();
  bool take_new(bool idle);
  void fill_slots();
  Job* choose(bool oldest);
  void start_next_page(Job& job);
  void end_read(const PageDone& done);
  Status check(const Slot& slot, int64_t result) const;
  void end_job(Job& job);

  const std::unique_ptr<PageReader> reader_;
  const std::string path_;
  const int64_t max_rows_;

  // The I/O thread's own.
  std::list<Job> jobs_;  // oldest first
  std::vector<Slot> slots_;
  std::vector<int> free_slots_;
  bool oldest_turn_ = false;  // the next free slot is the oldest job's; outlives fill_slots(), slots come free singly

  std::mutex mutex_;
  std::condition_variable work_, room_;
  std::vector<PageBatch> new_batches_;
  bool in_reader_ = false;  // the I/O thread is, or will be next, in reader_->wait(), and no wake() is on its way
  int64_t queued_rows_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace engram
