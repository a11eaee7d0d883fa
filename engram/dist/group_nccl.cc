#include "engram/dist/group.h"

#ifdef ENGRAM_WITH_NCCL
#define USE_C10D_NCCL  // libtorch was built with it, and its header shows the class only then
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

namespace engram {

c10::intrusive_ptr<c10d::Backend> make_nccl_group([[maybe_unused]] const c10::intrusive_ptr<c10d::Store>& store,
                                                  [[maybe_unused]] int rank, [[maybe_unused]] int size,
                                                  [[maybe_unused]] std::chrono::milliseconds timeout) {
#ifdef ENGRAM_WITH_NCCL
  const auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = timeout;
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, size, options);
#else
  TORCH_CHECK(false, "this program was built without NCCL");
#endif
}

}  // namespace engram
