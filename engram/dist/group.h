// The libraries that move the bytes of a channel. Only the .cc files know them.
#pragma once
#include <chrono>
#include <string>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

namespace engram {

// Gloo, for tensors in memory: sockets at `address`, one thread that runs the exchanges in order. Connects to all other
// ranks through `store`. Throws c10::Error and Gloo's own exceptions.
c10::intrusive_ptr<c10d::Backend> make_gloo_group(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                                                  const std::string& address, std::chrono::milliseconds timeout);

// NCCL, for tensors on NVIDIA devices. Throws where the program was built without it.
c10::intrusive_ptr<c10d::Backend> make_nccl_group(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                                                  std::chrono::milliseconds timeout);

}  // namespace engram
