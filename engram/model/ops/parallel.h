// Work over libtorch's own threads (at::get_num_threads()), for code that calls kernels.
//
// at::parallel_for runs serially in a file compiled without OpenMP; parallel.cc is the one file compiled with it, and
// it links the OpenMP runtime that libtorch itself uses, so that there is one pool of threads. Nested calls run
// serially. Exceptions of work reach the caller.
#pragma once
#include <cstdint>
#include <functional>

namespace engram {

int64_t parallel_threads();

// work(begin, end) over consecutive parts of [0, size), at most one per thread, none (but the last) below grain.
void parallel_ranges(int64_t size, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& work);

// work(i) once for every i < tasks. Each thread begins with a share of consecutive tasks, in their order; one that is
// done takes from another's share, so that a thread which the system has taken off its core (a reader of rows may have)
// holds up one task and not its share of all.
void parallel_tasks(int64_t tasks, const std::function<void(int64_t)>& work);

}  // namespace engram
