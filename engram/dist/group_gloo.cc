#define USE_C10D_GLOO  // libtorch was built with it, and its header shows the class only then
#include <sched.h>

#include <cstdlib>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "engram/dist/group.h"

namespace engram {
namespace {

// Gloo's event loop tries again and again for the lock of a thread that sends. Where a waking loop takes the core of
// that thread, it spins until its slice of time ends; a thread of SCHED_BATCH takes no core by waking. Threads inherit.
class BatchScheduling {
 public:
  BatchScheduling() : normal_(sched_getscheduler(0) == SCHED_OTHER) { set(SCHED_BATCH); }
  ~BatchScheduling() { set(SCHED_OTHER); }
  BatchScheduling(const BatchScheduling&) = delete;
  BatchScheduling& operator=(const BatchScheduling&) = delete;

 private:
  void set(int policy) {
    const sched_param zero{};
    if (normal_) (void)sched_setscheduler(0, policy, &zero);  // where it is refused, only time is lost
  }
  bool normal_;
};

std::shared_ptr<::gloo::transport::Device> make_device(const std::string& address) {
  using c10d::ProcessGroupGloo;
  const BatchScheduling of_the_loop;
  const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
  return interface != nullptr ? ProcessGroupGloo::createDeviceForInterface(interface)
                              : ProcessGroupGloo::createDeviceForHostname(address);
}

}  // namespace

c10::intrusive_ptr<c10d::Backend> make_gloo_group(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                                                  const std::string& address, std::chrono::milliseconds timeout) {
  using c10d::ProcessGroupGloo;
  const auto options = ProcessGroupGloo::Options::create(timeout);
  options->threads = 1;
  options->devices.push_back(make_device(address));
  return c10::make_intrusive<ProcessGroupGloo>(store, rank, size, options);
}

}  // namespace engram
