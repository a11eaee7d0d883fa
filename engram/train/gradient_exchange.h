// GradientExchange: dense gradients of all ranks to the owner of each parameter, and updated parameters back (ZeRO-1:
// weights everywhere, sums and optimizer state at the owner). A parameter that is larger than a rank's share of all is
// divided by rows: each rank owns some.
//
// A step's gradients are those of its micro-batches, added pairwise (dist/pairwise_sum.h), on each rank first and then
// by the owner in the order of ranks. They leave in buckets of neighbouring parameters, the last parameters first:
// during the last backward, as soon as a bucket has all its gradients. Values return by groups, each as soon as its
// parameters are updated. Where no parameter of a group is divided, its values come and, with two ranks, go as they
// lie: the parameters are views of one buffer, those of one owner together.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engram/dist/communicator.h"
#include "engram/dist/pairwise_sum.h"
#include "engram/dist/partition.h"

namespace engram {

struct ExchangedParameter {
  torch::Tensor tensor;  // the same shape on every rank, fp32 on the CPU
  int64_t cost = 0;      // of its update
  int64_t unit = 0;      // rows (of dimension 0) that stay together where it is divided; 0: it is not
  size_t group = 0;      // with which it returns
  bool stays = false;    // each rank has a parameter of its own there (its experts), whose gradient stays as it is
};

// Not thread-safe. Keeps references to the parameters. Throws ExchangeFailed. In a world of one rank it only adds.
class GradientExchange {
 public:
  GradientExchange(Communicator& ranks, std::vector<ExchangedParameter> parameters);
  GradientExchange(const GradientExchange&) = delete;
  GradientExchange& operator=(const GradientExchange&) = delete;

  // Rank r owns the rows [begins[r], begins[r + 1]) of a parameter that does not stay.
  std::vector<int64_t> begins(size_t parameter) const;
  // Of each parameter the rows owned here, as a view; undefined where there are none.
  std::vector<torch::Tensor> own() const;
  // Before and after the backward of a micro-batch, `last` for the last one of this rank. The parameters have no
  // gradient afterwards, so that the next backward writes instead of adding.
  void begin_backward(bool last) { last_ = last; }
  void end_backward();
  // The sums over the ranks for the rows owned here, undefined where there are none or this rank had no gradient. They
  // lie in memory that the next step uses again.
  std::vector<torch::Tensor> finish_sum();
  // The parameters of a group get their owners' values. Every rank starts the groups in one order.
  void start_return(size_t group);
  void finish_return();
  // Every parameter gets rank 0's value.
  void send_parameters();

 private:
  // Rows of a parameter with one owner, and where they lie in the messages, in floats.
  struct Part {
    size_t parameter;
    int owner;
    Range rows;
    int64_t in_sum = 0;     // in the message to the owner, or in what comes from each rank
    int64_t in_return = 0;  // in what the group gets, or in what it sends
    torch::Tensor of(const torch::Tensor& tensor) const { return tensor.narrow(0, rows.begin, rows.size()); }
  };
  struct Bucket {
    std::vector<size_t> parameters;
    std::vector<int64_t> to, from;  // rows of its exchange to and from each rank
    torch::Tensor sent, received;   // gradients for the others, by owner; ours of each other rank [ranks - 1, ..]
    PairwiseSum sum;
    size_t missing = 0;  // gradients of the last backward
  };
  struct Group {
    std::vector<size_t> parameters;
    std::vector<int64_t> to, from;  // as a bucket's, on the way back
    torch::Tensor received, ours;   // values, by owner, and those of this rank
    torch::Tensor copies;           // ours for each other rank, of more than one
    bool packed = false;            // the parameters lie elsewhere
  };
  size_t own_rank() const { return static_cast<size_t>(ranks_.rank()); }
  bool owned(const Part& part) const { return part.owner == ranks_.rank(); }
  void divide();
  void make_buckets();
  void make_groups();
  void watch_gradients();
  void on_gradient(size_t parameter);
  void add_term(Bucket& bucket);
  void send(Bucket& bucket);
  void add_received(const Bucket& bucket, std::vector<torch::Tensor>& gradients);

  Communicator& ranks_;
  std::vector<ExchangedParameter> parameters_;
  std::vector<std::vector<Part>> parts_;  // of each parameter, in the order of rows; none where it stays
  std::vector<size_t> bucket_of_;
  std::vector<Bucket> buckets_;  // in the order in which they leave
  std::vector<Group> groups_;
  size_t left_ = 0;                                                   // buckets that are on their way
  bool last_ = true;                                                  // in the last backward
  std::vector<torch::Tensor> gradients_;                              // of this rank, summed
  std::vector<std::shared_ptr<torch::autograd::Node>> accumulators_;  // they carry the hooks
  std::vector<Exchange> sums_, returns_;
};

}  // namespace engram
