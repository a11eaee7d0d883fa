// Communicator: what the ranks of a world send each other while they train one model. c10d does the work: Gloo on the
// CPU, NCCL on NVIDIA devices.
//
// A channel is a group of connections. On one channel every rank starts the same exchanges in the same order; between
// channels there is no order. One rank that leaves the order ends the others, at the latest after the time-out (Gloo
// may even abort them), so what only one rank can see (a bad file, a full disk) goes through agree().
//
// When an exchange fails, every rank reports one line that names who is missing and why: "rank 1 has gone (connection
// closed)", "rank 1 does not answer (60 s)", "rank 1: the loss is not finite". From then on all exchanges throw it.
//
// Methods are for one thread at a time per channel; agree() and fail() for one thread. Tensors are contiguous.
#pragma once
#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "engram/core/status.h"
#include "engram/dist/channel.h"
#include "engram/dist/world.h"

namespace engram {

// What an exchange throws. what() is the one line.
class ExchangeFailed : public std::runtime_error {
 public:
  explicit ExchangeFailed(Status why) : std::runtime_error(why.message()), status_(std::move(why)) {}
  const Status& status() const { return status_; }

 private:
  Status status_;
};

struct ChannelStats {
  int64_t calls = 0;
  int64_t bytes_sent = 0;      // to other ranks
  int64_t bytes_received = 0;  // from other ranks
  double seconds_waited = 0;   // inside wait(), failures included
};

class Communicator;

// An exchange on its way. The tensors belong to it until wait() has returned: `in` stays as it is and `out` is not
// read. Both are kept alive, also by an exchange that is destroyed without wait(). Not later than its communicator.
class [[nodiscard]] Exchange {
 public:
  Exchange(Exchange&&) noexcept;
  Exchange& operator=(Exchange&&) noexcept;
  ~Exchange();

  bool done() const;  // wait() will not block
  void wait();        // throws ExchangeFailed. A second call does nothing.

 private:
  friend class Communicator;
  struct State;
  explicit Exchange(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

class Communicator {
 public:
  // Meets the other ranks of `world` at its host and port. `timeout`: for this, and for each exchange. kUnavailable
  // names who has not come; kInvalidArgument what differs between ranks. Call it after torch's threads and their
  // floating-point mode are set up: those of a group inherit it. `world.size` may be 1.
  static Result<std::unique_ptr<Communicator>> connect(const World& world, const Hello& hello,
                                                       std::chrono::seconds timeout);
  // One rank without sockets and threads: exchanges are copies.
  static std::unique_ptr<Communicator> alone();
  // With a failure behind it, it does not wait for exchanges on their way; the process should end soon.
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const;
  int size() const;

  // Rows out_splits[r] of `out` come from rank r and rows in_splits[r] of `in` go there, in order of ranks. Splits may
  // be zero; they sum up to the first dimension. The other dimensions and the type are the same everywhere.
  Exchange all_to_all(Channel channel, at::Tensor out, std::vector<int64_t> out_splits, at::Tensor in,
                      std::vector<int64_t> in_splits);
  // `tensor` of rank `root`, in every rank's `tensor`.
  Exchange broadcast(Channel channel, at::Tensor tensor, int root);
  // Rank r's `in` is part r of `out` along the first dimension. One shape and type everywhere.
  Exchange all_gather(Channel channel, at::Tensor out, at::Tensor in);
  // Few numbers, whose sums do not depend on an order: int64, or doubles of which at most one rank's is not zero.
  Exchange sum(Channel channel, at::Tensor tensor);

  // Ok where every rank's `mine` is; else on all ranks the failure of the lowest rank that has one, "rank R: message"
  // in a world of several (message cut at 1000 bytes). Waits up to `patience` for ranks that are still busy. Throws
  // ExchangeFailed.
  Status agree(const Status& mine, std::chrono::seconds patience);

  // Tells the other ranks why this one ends, so that they report it; no exchange may follow. Takes up to two seconds at
  // rank 0. Nothing happens when an exchange has failed already.
  void fail(const Status& why) noexcept;

  const ChannelStats& stats(Channel channel) const;

 private:
  friend class Exchange;
  struct Impl;
  explicit Communicator(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace engram
