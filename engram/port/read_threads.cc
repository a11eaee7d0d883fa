#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "engram/port/reads.h"

namespace engram::port {
namespace {

class ThreadQueue final : public ReadQueue {
 public:
  explicit ThreadQueue(const ReadSlots& slots) : slots_(slots) {}
  ~ThreadQueue() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    work_ready_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void start_threads() {
    for (int i = 0; i < slots_.count; ++i) threads_.emplace_back([this] { work(); });
  }
  const char* name() const override { return "threads"; }
  int start(int slot, int64_t offset) override {
    {
      std::lock_guard lock(mutex_);
      queue_.push_back({slot, offset});
    }
    work_ready_.notify_one();
    return 0;
  }
  int wait(std::vector<ReadDone>& done) override {
    std::unique_lock lock(mutex_);
    done_ready_.wait(lock, [&] { return woken_ || !done_.empty(); });
    woken_ = false;
    done.insert(done.end(), done_.begin(), done_.end());
    done_.clear();
    return 0;
  }
  void wake() override {
    {
      std::lock_guard lock(mutex_);
      woken_ = true;
    }
    done_ready_.notify_one();
  }

 private:
  struct Job {
    int slot;
    int64_t offset;
  };
  int64_t read(const Job& job) const {
    const std::span<std::byte> out = slots_[job.slot];
    ssize_t got;
    do {
      got = ::pread(slots_.fd, out.data(), out.size(), job.offset);
    } while (got < 0 && errno == EINTR);
    return got < 0 ? -errno : got;
  }
  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      work_ready_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      const Job job = queue_.front();
      queue_.pop_front();
      lock.unlock();
      const int64_t result = read(job);
      lock.lock();
      done_.push_back({job.slot, result});
      done_ready_.notify_one();
    }
  }

  const ReadSlots slots_;
  std::mutex mutex_;
  std::condition_variable work_ready_, done_ready_;
  std::deque<Job> queue_;
  std::vector<ReadDone> done_;
  bool woken_ = false, stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<ReadQueue> open_read_threads(const ReadSlots& slots) {
  auto queue = std::make_unique<ThreadQueue>(slots);
  queue->start_threads();
  return queue;
}

}  // namespace engram::port
