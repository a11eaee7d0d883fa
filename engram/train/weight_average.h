// WeightAverage: the mean of the weights over the steps, beside the weights that train.
//
// After its step n (from 0) the average moves towards the weights by max(1 - decay, 1 / (n + 1)): it is the plain mean
// of the first steps and then decays; a decay of 1 keeps the plain mean. Every weight that is trained has one, in fp32.
// Rows of tables, which most steps leave alone, and routing biases are the model's. Each rank averages what it has, by
// operations that round each element alone, so the bits do not depend on how weights are divided.
#pragma once
#include <torch/types.h>

#include <cstdint>
#include <vector>

namespace engram {

class WeightAverage {
 public:
  // Keeps references to the weights.
  WeightAverage(std::vector<torch::Tensor> weights, double decay);
  void add(int64_t n);
  void take();  // the average becomes what the weights are
  void swap();  // the weights become the average, and the average the weights

 private:
  std::vector<torch::Tensor> weights_, average_;
  double decay_;
};

// The model has the averaged weights while this lives.
class Averaged {
 public:
  explicit Averaged(WeightAverage* average) : average_(average) {
    if (average_) average_->swap();
  }
  ~Averaged() {
    if (average_) average_->swap();
  }
  Averaged(const Averaged&) = delete;
  Averaged& operator=(const Averaged&) = delete;

 private:
  WeightAverage* average_;  // null: the weights stay
};

}  // namespace engram
