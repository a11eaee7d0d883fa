#include "engram/model/ops/parallel.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>

namespace engram {

int64_t parallel_threads() { return at::get_num_threads(); }

void parallel_ranges(int64_t size, int64_t grain, const std::function<void(int64_t, int64_t)>& work) {
  at::parallel_for(0, size, grain, work);
}

void parallel_tasks(int64_t tasks, const std::function<void(int64_t)>& work) {
  std::atomic<int64_t> next = 0;
  at::parallel_for(0, std::min<int64_t>(tasks, at::get_num_threads()), 1, [&](int64_t, int64_t) {
    for (int64_t i = 0; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) work(i);
  });
}

}  // namespace engram
