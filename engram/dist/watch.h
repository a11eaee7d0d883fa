// The watch over the other ranks: a thread that tells the store that this one is alive, and reads there what became of
// the others. Used by the communicator.
#pragma once
#include <array>
#include <chrono>
#include <memory>
#include <string>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <vector>

#include "engram/dist/channel.h"
#include "engram/dist/world.h"

namespace engram {

// Any thread.
class Watch {
 public:
  // The first sign of life. Every rank gives it before the ranks' last common step of setting up.
  static void begin(c10d::Store& store, int rank);

  // `timeout`: after which a store that does not answer is given up.
  Watch(c10::intrusive_ptr<c10d::Store> store, const World& world, std::chrono::milliseconds timeout);
  ~Watch();  // a thread that hangs in a store without an answer is left behind
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  // This rank starts its next exchange on the channel; returns its number, from 1.
  int64_t count(Channel channel);

  // Why exchange `number` of `channel` failed here: what the failing rank left behind, or who gives no sign of life,
  // or who has not come to the exchange. Takes up to 2 s.
  std::string explain(Channel channel, int64_t number, const std::string& error);
  // Leaves `why` behind for the others, unless somebody was first. Rank 0, who holds the store, waits until all others
  // have read it, 2 s at most.
  void announce(const std::string& why);

 private:
  struct State;
  std::shared_ptr<State> state_;  // shared with the thread
};

}  // namespace engram
