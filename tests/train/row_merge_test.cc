// Gradients of one row from several ranks: the sum has the bits of PairwiseSum over all ranks, zeros where a rank has
// none.
#include <gtest/gtest.h>

#include <torch/types.h>

#include <cmath>
#include <random>

#include "engram/dist/pairwise_sum.h"
#include "engram/train/row_merge.h"

namespace engram {
namespace {

class RowMerge : public testing::TestWithParam<int> {};

TEST_P(RowMerge, EqualsThePairwiseSumOfWholeTables) {
  const int ranks = GetParam();
  constexpr int64_t kRows = 40, kDim = 3;
  std::mt19937 random(static_cast<unsigned>(ranks));
  std::vector<int64_t> index;
  std::vector<std::vector<float>> gradients(static_cast<size_t>(ranks));
  std::vector<torch::Tensor> whole;
  for (int rank = 0; rank < ranks; ++rank) {
    whole.push_back(torch::zeros({kRows, kDim}));
    for (int64_t row = 0; row < kRows; ++row) {
      if (rank > 0 && random() % 3 == 0) continue;  // rank 0 has them all, so that every row has a part
      index.push_back(row);
      for (int64_t column = 0; column < kDim; ++column) {
        gradients[rank].push_back(
            std::ldexp(static_cast<float>(random()) / 4e9f - 0.5f, static_cast<int>(random() % 20)));
        whole.back()[row][column] = gradients[rank].back();
      }
    }
  }
  const torch::Tensor wanted = pairwise_sum(whole);
  torch::Tensor sums = torch::empty({kRows, kDim});
  const std::vector<std::span<float>> parts(gradients.begin(), gradients.end());
  merge_rows({parts, index, kDim}, sums.mutable_data_ptr<float>());
  EXPECT_TRUE(torch::equal(wanted, sums));
}

INSTANTIATE_TEST_SUITE_P(Ranks, RowMerge, testing::Values(1, 2, 3, 4, 5, 6, 7, 8, 13));

TEST(RowMergeOfNothing, IsNothing) { merge_rows({{}, {}, 4}, nullptr); }

}  // namespace
}  // namespace engram
