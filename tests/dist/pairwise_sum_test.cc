#include "engram/dist/pairwise_sum.h"

#include <gtest/gtest.h>
#include <torch/types.h>

namespace engram {
namespace {

std::vector<torch::Tensor> draw(int terms) {
  torch::manual_seed(3);
  std::vector<torch::Tensor> drawn;
  for (int i = 0; i < terms; ++i) drawn.push_back(torch::randn({1000}) * (i % 3 ? 1 : 1e3));
  return drawn;
}

torch::Tensor sum_of(const std::vector<torch::Tensor>& terms, size_t begin, size_t end) {
  PairwiseSum sum;
  for (size_t i = begin; i < end; ++i) sum.push({terms[i].defined() ? terms[i].clone() : terms[i]});
  return sum.finish().at(0);
}

TEST(PairwiseSum, AddsPairs) {
  const auto t = draw(7);
  EXPECT_TRUE(sum_of(t, 0, 1).equal(t[0]));
  EXPECT_TRUE(sum_of(t, 0, 7).equal((((t[0] + t[1]) + (t[2] + t[3])) + ((t[4] + t[5]) + t[6]))));
  EXPECT_FALSE(sum_of(t, 0, 4).equal(((t[0] + t[1]) + t[2]) + t[3]));  // the order can be seen
}

TEST(PairwiseSum, BlocksOfAPowerOfTwoAreSubtrees) {
  for (const auto& [terms, blocks] : {std::pair{8, 2}, {8, 4}, {8, 8}, {6, 3}, {12, 3}, {20, 5}, {5, 5}}) {
    const auto drawn = draw(terms);
    std::vector<torch::Tensor> parts;
    for (int block = 0; block < blocks; ++block)
      parts.push_back(sum_of(drawn, block * terms / blocks, (block + 1) * terms / blocks));
    EXPECT_TRUE(pairwise_sum(parts).equal(sum_of(drawn, 0, terms))) << terms << " terms in " << blocks << " blocks";
  }
}

TEST(PairwiseSum, OtherBlocksDiffer) {
  const auto drawn = draw(6);
  EXPECT_FALSE(pairwise_sum({sum_of(drawn, 0, 3), sum_of(drawn, 3, 6)}).equal(sum_of(drawn, 0, 6)));
}

TEST(PairwiseSum, AbsentTensorsCountAsZero) {
  auto drawn = draw(8);
  auto zeros = drawn;
  for (const int absent : {0, 3, 6, 7}) {
    drawn[absent] = torch::Tensor();
    zeros[absent] = torch::zeros({1000});
  }
  EXPECT_TRUE(sum_of(drawn, 0, 8).equal(sum_of(zeros, 0, 8)));
  EXPECT_FALSE(pairwise_sum({torch::Tensor(), torch::Tensor()}).defined());
  EXPECT_FALSE(pairwise_sum({}).defined());
}

TEST(PairwiseSum, StartsAnewAndRecordsNothing) {
  PairwiseSum sum;
  const torch::Tensor leaf = torch::ones({2}, torch::requires_grad());
  sum.push({leaf * 2, torch::ones({3})});
  sum.push({leaf * 3, torch::ones({3})});
  EXPECT_TRUE(sum.finish()[0].equal(torch::full({2}, 5.0)));
  EXPECT_TRUE(sum.finish().empty());
  sum.push({torch::ones({1})});
  EXPECT_THROW(sum.push({torch::ones({1}), torch::ones({1})}), c10::Error);
}

}  // namespace
}  // namespace engram
