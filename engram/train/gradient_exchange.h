// GradientExchange: dense gradients of all ranks to one owner for each parameter, and updated parameters back (ZeRO-1:
// weights everywhere, sums and optimizer state at the owner).
//
// The owner adds the ranks' parts pairwise in the order of ranks (dist/pairwise_sum.h). The parameters of one owner are
// views of one buffer on every rank, so that what it updates is sent as it lies.
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
  // `parameters`: the same on every rank, fp32 on the CPU; `costs` of their updates decide who owns what.
  GradientExchange(Communicator& ranks, std::vector<torch::Tensor> parameters, std::span<const int64_t> costs);

  int owner(size_t parameter) const { return owners_[parameter]; }
  bool owns(size_t parameter) const { return owners_[parameter] == ranks_.rank(); }
  // Sends `gradients` of all parameters, in their order, to the owners.
  void start_sum(std::vector<torch::Tensor> gradients);
  // The sums over the ranks of those owned here, undefined for others and where this rank had none. Views of a buffer
  // that the next start_sum() overwrites.
  std::vector<torch::Tensor> finish_sum();
  // Every parameter gets its owner's value.
  void start_return();
  void finish_return() { wait(); }
  // Every parameter gets rank 0's value.
  void send_parameters();

 private:
  // A parameter's place in its owner's buffer, in floats.
  struct Place {
    int64_t begin = 0;
    torch::Tensor of(const torch::Tensor& buffer, const torch::Tensor& like) const {
      return buffer.narrow(0, begin, like.numel()).view(like.sizes());
    }
  };
  void wait();
  void start_broadcast(std::span<const int> roots);

  Communicator& ranks_;
  std::vector<torch::Tensor> parameters_;
  std::vector<int> owners_;
  std::vector<Place> places_;
  std::vector<int64_t> sizes_;            // of each owner's buffer, in floats
  std::vector<torch::Tensor> values_;     // of each owner: its parameters
  torch::Tensor sent_, received_;         // gradients: by owner; of each rank, the part owned here
  std::vector<torch::Tensor> gradients_;  // on their way
  std::vector<Exchange> exchanges_;       // likewise: of gradients, or of parameters
};

}  // namespace engram
