#include "engram/store/rowfile/page_queue.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

// The I/O thread and its callers
//
//   1. jobs_, slots_ and free_slots_ belong to the I/O thread and have no lock. Callers touch only what mutex_ guards:
//      new_batches_, queued_rows_ and the flags.
//   2. No batch waits unseen. in_reader_ is set when the I/O thread has taken all new batches, and cleared by the first
//      caller after that, who calls wake(). Until then the thread is in reader_->wait() or about to call it; wake()
//      ends the present or the next wait(). When nothing is left to read, the thread clears in_reader_ under mutex_ and
//      waits for work_ instead.
//   3. After fill_slots() no slot is free while a job has pages to start. So reader_->wait() always has a read to wait
//      for. A job ends when no page of it is in flight and none is left to start.
//   4. Slots point to jobs and to their targets. std::list keeps their addresses, and a job ends after its last slot.
//   5. A page is read at most twice (Slot::retried). After a failure no further page of its job is started; those in
//      flight end first, because they write to buffers that the slots own.
//   6. end_job() makes room before it calls done() without a lock, so done() may add batches. On the I/O thread add()
//      never waits: it would wait for itself.

namespace engram {
namespace {

constexpr size_t kPage = kRowPageBytes, kPayload = kRowPagePayload;

int64_t count_pages(const RowTable& table, std::span<const RowTarget> targets) {
  int64_t runs = 0;
  for (size_t begin = 0; begin < targets.size(); begin = end_of_page(table, targets, begin)) ++runs;
  return runs * table.pages_per_row;
}

}  // namespace

std::vector<RowTarget> sort_targets(std::span<const int64_t> row_ids) {
  std::vector<RowTarget> targets(row_ids.size());
  for (size_t i = 0; i < row_ids.size(); ++i) targets[i] = {row_ids[i], static_cast<int64_t>(i)};
  std::sort(targets.begin(), targets.end(), [](const RowTarget& a, const RowTarget& b) { return a.row < b.row; });
  return targets;
}

size_t end_of_page(const RowTable& table, std::span<const RowTarget> targets, size_t begin) {
  // The first row of the next page.
  const int64_t row = targets[begin].row;
  const int64_t limit = table.rows_per_page > 0 ? (row / table.rows_per_page + 1) * table.rows_per_page : row + 1;
  size_t end = begin + 1;
  while (end < targets.size() && targets[end].row < limit) ++end;
  return end;
}

void copy_from_page(const RowTable& table, std::span<const RowTarget> targets, int64_t segment, const std::byte* page,
                    std::byte* out) {
  const auto row_bytes = static_cast<size_t>(table.row_bytes);
  const size_t done = static_cast<size_t>(segment) * kPayload;
  const size_t size = table.rows_per_page > 0 ? row_bytes : std::min(kPayload, row_bytes - done);
  for (const RowTarget& target : targets)
    std::memcpy(out + static_cast<size_t>(target.index) * row_bytes + done, page + table.offset_of(target.row), size);
}

struct PageQueue::Job {
  PageBatch batch;
  size_t next = 0;         // target whose page is started next
  int64_t segment = 0;     // page of that row, for rows of several
  int64_t pages_left = 0;  // not started
  int in_flight = 0;
  int64_t pages = 0, retries = 0;
  Status status;

  bool has_pages() const { return status.ok() && next < batch.targets.size(); }
};

struct PageQueue::Slot {
  Job* job = nullptr;
  int64_t page = 0;
  size_t begin = 0, end = 0;  // of job->batch.targets
  int64_t segment = 0;
  bool retried = false;
};

PageQueue::PageQueue(std::unique_ptr<PageReader> reader, std::string path, int64_t max_rows)
    : reader_(std::move(reader)), path_(std::move(path)), max_rows_(max_rows) {
  slots_.resize(static_cast<size_t>(reader_->depth()));
  for (int slot = reader_->depth(); slot-- > 0;) free_slots_.push_back(slot);
  thread_ = std::thread([this] { run(); });
}

PageQueue::~PageQueue() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_.notify_one();
  thread_.join();
}

void PageQueue::add(PageBatch batch) {
  // A batch that another batch's end asks for may not wait for room that only its own thread makes.
  const bool own_thread = std::this_thread::get_id() == thread_.get_id();
  (void)insert(std::move(batch), own_thread ? WhenFull::kExceed : WhenFull::kWait);
}

bool PageQueue::try_add(PageBatch batch) { return insert(std::move(batch), WhenFull::kRefuse); }

bool PageQueue::insert(PageBatch batch, WhenFull when_full) {
  const auto rows = static_cast<int64_t>(batch.targets.size());
  ENGRAM_CHECK(rows > 0, "{}: an empty batch", path_);
  const auto has_room = [&] { return queued_rows_ == 0 || queued_rows_ + rows <= max_rows_; };
  bool in_reader;
  {
    std::unique_lock lock(mutex_);
    if (when_full == WhenFull::kRefuse && !has_room()) return false;
    if (when_full == WhenFull::kWait) room_.wait(lock, has_room);
    queued_rows_ += rows;
    new_batches_.push_back(std::move(batch));
    in_reader = std::exchange(in_reader_, false);  // one wake() is enough
  }
  if (in_reader)
    reader_->wake();
  else
    work_.notify_one();
  return true;
}

void PageQueue::run() {
  std::vector<PageDone> done;
  while (true) {
    const bool idle = jobs_.empty();
    if (!take_new(idle)) return;
    fill_slots();
    done.clear();
    reader_->wait(done);
    for (const PageDone& read : done) end_read(read);
  }
}

// False: the queue is being destroyed and nothing is left.
bool PageQueue::take_new(bool idle) {
  std::vector<PageBatch> batches;
  {
    std::unique_lock lock(mutex_);
    if (idle) {
      in_reader_ = false;
      work_.wait(lock, [&] { return stopping_ || !new_batches_.empty(); });
      if (new_batches_.empty()) return false;
    }
    batches.swap(new_batches_);
    in_reader_ = true;
  }
  for (PageBatch& batch : batches) {
    Job& job = jobs_.emplace_back();
    job.pages_left = count_pages(*batch.table, batch.targets);
    job.batch = std::move(batch);
  }
  return true;
}

// The oldest job that has pages to start, or the one with the fewest of them; null when there is none.
PageQueue::Job* PageQueue::choose(bool oldest) {
  Job* best = nullptr;
  for (Job& job : jobs_) {
    if (!job.has_pages()) continue;
    if (oldest) return &job;
    if (best == nullptr || job.pages_left < best->pages_left) best = &job;
  }
  return best;
}

void PageQueue::fill_slots() {
  Job *oldest = choose(true), *shortest = choose(false);
  for (; oldest != nullptr && !free_slots_.empty(); oldest_turn_ = !oldest_turn_) {
    Job& job = oldest_turn_ ? *oldest : *shortest;
    start_next_page(job);
    if (job.has_pages()) continue;
    oldest = choose(true);
    shortest = choose(false);
  }
}

void PageQueue::start_next_page(Job& job) {
  const RowTable& table = *job.batch.table;
  const int index = free_slots_.back();
  free_slots_.pop_back();
  Slot& slot = slots_[static_cast<size_t>(index)];
  slot = {&job, table.page_of(job.batch.targets[job.next].row) + job.segment, job.next,
          end_of_page(table, job.batch.targets, job.next), job.segment};
  if (++job.segment == table.pages_per_row) {
    job.segment = 0;
    job.next = slot.end;
  }
  --job.pages_left;
  ++job.in_flight;
  reader_->start(index, slot.page);
}

Status PageQueue::check(const Slot& slot, int64_t result) const {
  if (result < 0)
    return data_loss("{}: cannot read page {}: {}", path_, slot.page,
                     std::generic_category().message(static_cast<int>(-result)));
  if (result != kRowPageBytes)
    return data_loss("{}: page {} has {} bytes, wanted {} (the file shrank while open?)", path_, slot.page, result,
                     kPage);
  return check_row_page(reader_->buffer(static_cast<int>(&slot - slots_.data())), slot.page, path_);
}

void PageQueue::end_read(const PageDone& done) {
  Slot& slot = slots_[static_cast<size_t>(done.slot)];
  Job& job = *slot.job;
  Status status = check(slot, done.result);
  if (!status.ok() && !slot.retried) {
    slot.retried = true;
    ++job.retries;
    reader_->start(done.slot, slot.page);
    return;
  }
  ++job.pages;
  if (status.ok() && job.batch.out != nullptr) {
    const auto targets = std::span<const RowTarget>(job.batch.targets).subspan(slot.begin, slot.end - slot.begin);
    copy_from_page(*job.batch.table, targets, slot.segment, reader_->buffer(done.slot).data(), job.batch.out);
  }
  if (job.status.ok()) job.status = std::move(status);
  --job.in_flight;
  free_slots_.push_back(done.slot);
  if (job.in_flight == 0 && !job.has_pages()) end_job(job);
}

void PageQueue::end_job(Job& job) {
  const auto at = std::find_if(jobs_.begin(), jobs_.end(), [&](const Job& other) { return &other == &job; });
  std::list<Job> ended;
  ended.splice(ended.begin(), jobs_, at);
  {
    std::lock_guard lock(mutex_);
    queued_rows_ -= static_cast<int64_t>(job.batch.targets.size());
  }
  room_.notify_all();
  job.batch.done(job.status, job.pages, job.retries);
}

}  // namespace engram
