// A decode step of one sequence took 1.8 times as long as reading its weights: products read four rows at a time, and
// between them a router, rotations and norms of a few hundred numbers went through dozens of tensors. Short ways of
// the same operators are held here to the long ones.
#include <gtest/gtest.h>

#include <atomic>

#include "engram/model/layers/moe.h"
#include "engram/model/ops/ops.h"
#include "engram/model/ops/parallel.h"

namespace engram {
namespace {

using torch::Tensor;

TEST(DecodeStepWaitsBetweenWeights, RoutingOfFewTokens) {
  torch::manual_seed(1);
  for (int64_t tokens : {1, 5, 64, 65}) {
    for (const RoutingOptions& options : {RoutingOptions{1, false, 1.0}, {4, true, 2.5}, {7, true, 1.0}}) {
      const Tensor logits = torch::randn({tokens, 7}) * 2, bias = torch::randn({7}) * 0.1;
      const Routing wanted = route(logits, bias, options);
      const c10::InferenceMode inference;
      const Routing got = route(logits, bias, options);
      EXPECT_TRUE(torch::equal(got.index, wanted.index)) << tokens;
      EXPECT_TRUE(torch::allclose(got.weight, wanted.weight, 1e-6, 1e-7)) << tokens;
    }
  }
}

TEST(DecodeStepWaitsBetweenWeights, HeadsTurnInPlace) {
  torch::manual_seed(2);
  for (const torch::Dtype dtype : {torch::kFloat, torch::kDouble}) {
    for (bool interleaved : {false, true}) {
      const Tensor before = torch::randn({3, 5, 6}, dtype), cos = torch::randn({3, 3}, dtype), sin = cos.flip(0);
      Tensor x = before.clone();
      turn_heads(x, 4, cos, sin, interleaved);
      const Tensor turned = apply_rope(before.narrow(1, 0, 4).unsqueeze(0), cos, sin, interleaved).squeeze(0);
      EXPECT_TRUE(torch::equal(x.narrow(1, 0, 4), turned)) << dtype;
      EXPECT_TRUE(torch::equal(x.narrow(1, 4, 1), before.narrow(1, 4, 1))) << dtype;
    }
  }
}

TEST(DecodeStepWaitsBetweenWeights, ForwardAlone) {
  torch::manual_seed(3);
  const Tensor x = torch::randn({2, 3, 8}), weight = torch::randn({8}), cos = torch::randn({2, 4});
  const Tensor norm = rms_norm(x, weight, 1e-5), active = swiglu(x);
  const Tensor turned = apply_rope(x.unsqueeze(0), cos, cos, true);
  const c10::InferenceMode inference;
  EXPECT_TRUE(torch::equal(rms_norm(x, weight, 1e-5), norm));
  EXPECT_TRUE(torch::equal(swiglu(x), active));
  EXPECT_TRUE(torch::equal(apply_rope(x.unsqueeze(0), cos, cos, true), turned));
}

TEST(DecodeStepWaitsBetweenWeights, EveryTaskOfASharedRangeRunsOnce) {
  for (int64_t tasks : {0, 1, 2, 3, 100}) {
    std::vector<std::atomic<int>> runs(static_cast<size_t>(tasks));
    parallel_tasks(tasks, [&](int64_t i) { ++runs[static_cast<size_t>(i)]; });
    parallel_tasks(2, [&](int64_t) {  // one thread then has all shares
      parallel_tasks(tasks, [&](int64_t i) { ++runs[static_cast<size_t>(i)]; });
    });
    for (const auto& count : runs) EXPECT_EQ(count, 3) << tasks;
  }
}

}  // namespace
}  // namespace engram
