#include "engram/model/ops/parallel.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <vector>

namespace engram {

int64_t parallel_threads() { return at::get_num_threads(); }

void parallel_ranges(int64_t size, int64_t grain, const std::function<void(int64_t, int64_t)>& work) {
  at::parallel_for(0, size, grain, work);
}

void parallel_tasks(int64_t tasks, const std::function<void(int64_t)>& work) {
  const int64_t threads = std::min<int64_t>(tasks, at::get_num_threads());
  struct alignas(64) Share {  // a cache line each
    std::atomic<int64_t> taken = 0;
  };
  std::vector<Share> shares(static_cast<size_t>(threads));
  at::parallel_for(0, threads, 1, [&](int64_t own, int64_t) {
    for (int64_t share = own; share < own + threads; ++share) {
      const int64_t at = share % threads, begin = tasks * at / threads, end = tasks * (at + 1) / threads;
      std::atomic<int64_t>& taken = shares[static_cast<size_t>(at)].taken;
      for (int64_t i = 0; (i = begin + taken.fetch_add(1, std::memory_order_relaxed)) < end;) work(i);
    }
  });
}

}  // namespace engram
