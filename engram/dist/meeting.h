// How the ranks of a world find each other, and make sure that they are at the same work. Used by the communicator.
#pragma once
#include <chrono>
#include <functional>
#include <span>
#include <string>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "engram/core/status.h"
#include "engram/dist/world.h"

namespace engram {

struct Meeting {
  c10::intrusive_ptr<c10d::Store> store;  // this attempt's keys alone. Rank 0 holds it, or torchrun.
  std::string address;                    // of this machine, as the other ranks see it
};

// Returns when all ranks are there and alike; every rank of a world that is not gets the same failure. Each part of it
// ends within `timeout`, where c10d lets it: a stranger at the port can hold it for minutes. `stage` is told what it
// waits for: what to report in that case.
Result<Meeting> meet(const World& world, const Hello& hello, std::chrono::milliseconds timeout,
                     const std::function<void(std::string)>& stage);

// "rank 1", "ranks 1 and 3", "ranks 1, 2, 3 and 60 more".
std::string ranks_text(std::span<const int> ranks);
// The first line of an exception's text, without c10's stack trace.
std::string first_line(const std::exception& error);

}  // namespace engram
