#define USE_C10D_GLOO  // libtorch was built with it, and its header shows the class only then
#include <cstdlib>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "engram/dist/group.h"
#include "engram/port/process.h"

namespace engram {
namespace {

std::shared_ptr<::gloo::transport::Device> make_device(const std::string& address) {
  using c10d::ProcessGroupGloo;
  // Gloo's event loop tries again and again for the lock of a thread that sends. Where a waking loop takes the core of
  // that thread, it spins until its slice of time ends. The loop's thread inherits this.
  const port::BatchScheduling of_the_loop;
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
