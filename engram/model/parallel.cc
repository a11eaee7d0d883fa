#include "engram/model/parallel.h"

#include <ATen/Parallel.h>

namespace engram {

int64_t parallel_threads() { return at::get_num_threads(); }

void parallel_ranges(int64_t size, int64_t grain, const std::function<void(int64_t, int64_t)>& work) {
  at::parallel_for(0, size, grain, work);
}

void parallel_tasks(int64_t tasks, const std::function<void(int64_t)>& work) {
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) work(i);
  });
}

}  // namespace engram
