// GradientExchange: dense gradients of all ranks to one owner for each parameter, and updated parameters back (ZeRO-1:
// weights everywhere, sums and optimizer state at the owner).
//
// A step's gradients are those of its micro-batches, added pairwise (dist/pairwise_sum.h), on each rank first and then
// by the owner in the order of ranks. They leave in buckets of neighbouring parameters, the last parameters first:
// during the last backward, as soon as a bucket has all its gradients. All parameters of a rank are views of one
// buffer, those of one owner together, so that values are sent and come as they lie.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <span>
#include <vector>

#include "engram/dist/communicator.h"
#include "engram/dist/pairwise_sum.h"

namespace engram {

// Not thread-safe. Keeps references to the parameters. Throws ExchangeFailed. In a world of one rank it only adds.
class GradientExchange {
 public:
  // `parameters`: the same on every rank, fp32 on the CPU; `costs` of their updates decide who owns what. A cost of
  // kStays: each rank has a parameter of its own there (its experts), whose gradient stays as it is.
  GradientExchange(Communicator& ranks, std::vector<torch::Tensor> parameters, std::span<const int64_t> costs);
  GradientExchange(const GradientExchange&) = delete;
  GradientExchange& operator=(const GradientExchange&) = delete;

  static constexpr int64_t kStays = -1;

  int owner(size_t parameter) const { return owners_[parameter]; }
  bool owns(size_t parameter) const { return owners_[parameter] == ranks_.rank(); }
  // Before and after the backward of a micro-batch, `last` for the last one of this rank. The parameters have no
  // gradient afterwards, so that the next backward writes instead of adding.
  void begin_backward(bool last) { last_ = last; }
  void end_backward();
  // The sums over the ranks of those owned here, undefined for others and where this rank had none. They lie in memory
  // that the next step uses again.
  std::vector<torch::Tensor> finish_sum();
  // Every parameter gets its owner's value.
  void start_return();
  void finish_return() { wait(); }
  // Every parameter gets rank 0's value.
  void send_parameters();

 private:
  // Where a parameter lies, in floats: among all values, in the message to its owner, or in what comes from each rank.
  struct Place {
    size_t bucket = 0;
    int64_t value = -1, message = 0;
    bool stays() const { return value < 0; }
  };
  struct Bucket {
    std::vector<size_t> parameters;
    std::vector<int64_t> to, from;  // rows of its exchange to and from each rank
    torch::Tensor sent, received;   // gradients for the others, by owner; ours of each other rank [ranks - 1, ..]
    PairwiseSum sum;
    size_t missing = 0;  // gradients of the last backward
  };
  size_t own() const { return static_cast<size_t>(ranks_.rank()); }
  void make_buckets();
  void lay_out_values();
  void watch_gradients();
  void on_gradient(size_t parameter);
  void add_term(Bucket& bucket);
  void send(Bucket& bucket);
  void wait();

  Communicator& ranks_;
  std::vector<torch::Tensor> parameters_;
  std::vector<int> owners_;
  std::vector<Place> places_;
  torch::Tensor values_;                 // the parameters, by owner: those of the other ranks in their order, then ours
  std::vector<int64_t> sizes_, begins_;  // of each owner's part there
  std::vector<int64_t> to_, from_;       // rows of the exchange that returns values
  torch::Tensor copies_;                 // ours for each other rank, of more than one
  std::vector<Bucket> buckets_;          // in the order in which they leave
  size_t left_ = 0;                      // buckets that are on their way
  bool last_ = true;                     // in the last backward
  std::vector<torch::Tensor> gradients_;                              // of this rank, summed
  std::vector<std::shared_ptr<torch::autograd::Node>> accumulators_;  // they carry the hooks
  std::vector<Exchange> exchanges_;                                   // of gradients, or of parameters
};

}  // namespace engram
