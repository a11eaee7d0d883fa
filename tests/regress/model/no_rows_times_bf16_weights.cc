// Seen: linear_rows() of no rows with bf16 weights took the kernel for eight rows, which read and wrote past the
// tensors.
#include <gtest/gtest.h>

#include "engram/model/ops/ops.h"

namespace engram {
namespace {

TEST(LinearRows, NoRowsAndWrongWidthsWithBf16Weights) {
  const torch::Tensor weight = torch::randn({40, 24}).to(torch::kBFloat16);
  const torch::Tensor none = linear_rows(torch::empty({0, 24}), weight);
  EXPECT_EQ(none.sizes(), (std::vector<int64_t>{0, 40}));
  EXPECT_EQ(none.scalar_type(), torch::kFloat);
  EXPECT_THROW(linear_rows(torch::randn({2, 12}), weight), c10::Error);
  const torch::Tensor x = torch::randn({3, 24});
  EXPECT_TRUE(torch::allclose(linear_rows(x, weight), at::linear(x, weight.to(torch::kFloat)), 1e-5, 1e-5));
}

}  // namespace
}  // namespace engram
