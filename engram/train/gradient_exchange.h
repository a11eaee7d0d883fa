// GradientExchange: dense gradients of all ranks to one owner for each parameter, and updated parameters back (ZeRO-1:
// weights everywhere, sums and optimizer state at the owner).
//
// The owner adds the ranks' parts pairwise in the order of ranks (dist/pairwise_sum.h). All parameters of a rank are
// views of one buffer, those of one owner together, so that values are sent and come as they lie.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <span>
#include <vector>

#include "engram/dist/communicator.h"

namespace engram {

// Not thread-safe. Keeps references to the parameters. Throws ExchangeFailed. In a world of one rank it does nothing.
class GradientExchange {
 public:
  // `parameters`: the same on every rank, fp32 on the CPU; `costs` of their updates decide who owns what. A cost of
  // kStays: each rank has a parameter of its own there (its experts), whose gradient stays as it is.
  GradientExchange(Communicator& ranks, std::vector<torch::Tensor> parameters, std::span<const int64_t> costs);

  static constexpr int64_t kStays = -1;

  int owner(size_t parameter) const { return owners_[parameter]; }
  bool owns(size_t parameter) const { return owners_[parameter] == ranks_.rank(); }
  // Sends `gradients` of all parameters, in their order, to the owners.
  void start_sum(std::vector<torch::Tensor> gradients);
  // The sums over the ranks of those owned here, undefined for others and where this rank had none. Until the next
  // start_sum() or start_return(), which overwrite them.
  std::vector<torch::Tensor> finish_sum();
  // Every parameter gets its owner's value.
  void start_return();
  void finish_return() { wait(); }
  // Every parameter gets rank 0's value.
  void send_parameters();

 private:
  // A place in the buffer of all parameters, in floats; -1: the parameter stays where it is.
  struct Place {
    int64_t begin = -1;
    bool stays() const { return begin < 0; }
    torch::Tensor of(const torch::Tensor& buffer, const torch::Tensor& like) const {
      return buffer.narrow(0, begin, like.numel()).view(like.sizes());
    }
  };
  size_t own() const { return static_cast<size_t>(ranks_.rank()); }
  void wait();

  Communicator& ranks_;
  std::vector<torch::Tensor> parameters_;
  std::vector<int> owners_;
  std::vector<Place> places_;
  torch::Tensor values_;                 // the parameters, by owner: those of the other ranks in their order, then ours
  std::vector<int64_t> sizes_, begins_;  // of each owner's part there
  std::vector<int64_t> to_, from_;       // rows of an exchange to and from each rank: the parts of the others, and ours
  torch::Tensor sent_, received_;        // gradients: laid out as values_, without ours; ours of each other rank
  std::vector<torch::Tensor> gradients_;  // on their way
  std::vector<Exchange> exchanges_;       // likewise: of gradients, or of parameters
};

}  // namespace engram
