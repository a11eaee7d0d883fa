// Sums in one order, whatever the number of processes: ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)).
//
// The sums of equal blocks of a power of two of consecutive terms are subtrees of that tree, so processes that each
// sum one block and then sum the blocks' sums have the bits of one process that sums all terms.
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

namespace engram {

// Terms come one at a time; a binary counter keeps at most log2(terms) + 1 partial sums. A term is a list of tensors
// (one for each parameter, always in the same order and of one shape). An undefined tensor is an absent one: it counts
// as zero, and where all are absent the sum is undefined. Records nothing for autograd.
class PairwiseSum {
 public:
  // Takes the tensors over: sums are formed in their memory, which nobody else may read later.
  void push(std::vector<at::Tensor> term);
  // The sum of all terms since the last finish(), empty where there were none. Starts anew.
  std::vector<at::Tensor> finish();

 private:
  std::vector<std::vector<at::Tensor>> levels_;  // [k]: the sum of 2^k terms, or empty
};

// The sum of `parts`, formed in their memory. Undefined where all are.
at::Tensor pairwise_sum(std::vector<at::Tensor> parts);

}  // namespace engram
