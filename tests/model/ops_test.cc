// Every fused operator against its plain form, values and gradients, over odd sizes; the plain forms against
// central differences in double.
#include "engram/model/ops/ops.h"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/utils.h>

#include <functional>

#include "engram/kernels/cross_entropy.h"
#include "engram/model/ops/parallel.h"

namespace engram {
namespace {

using torch::Tensor;
using Tensors = std::vector<Tensor>;
// Differentiable inputs in, one tensor out.
using Op = std::function<Tensor(const Tensors&)>;

struct Evaluation {
  Tensor value;
  Tensors gradients;
};

// The gradients of sum(value * a fixed random tensor).
Evaluation evaluate(const Op& op, const Tensors& inputs) {
  Tensors leaves;
  for (const Tensor& input : inputs) leaves.push_back(input.detach().clone().set_requires_grad(true));
  Evaluation out;
  out.value = op(leaves);
  torch::manual_seed(7);
  Tensor weight = torch::randn(out.value.sizes(), torch::kDouble).to(out.value.scalar_type());
  (out.value * weight).sum().backward();
  for (const Tensor& leaf : leaves) out.gradients.push_back(leaf.grad());
  return out;
}

double largest(const Tensor& x) { return x.numel() == 0 ? 0 : x.to(torch::kDouble).abs().max().item<double>(); }
double distance(const Tensor& a, const Tensor& b) { return largest(a.to(torch::kDouble) - b.to(torch::kDouble)); }

void expect_close(const Tensor& got, const Tensor& wanted, double tolerance, const std::string& what) {
  ASSERT_EQ(got.sizes(), wanted.sizes()) << what;
  EXPECT_LE(distance(got, wanted), tolerance * std::max(largest(wanted), 1e-3)) << what;
}

// fused in fp32 against plain in double. Where a gradient is badly conditioned (a score near 0 under its square
// root) no fp32 form is within the tolerance; there the fused form may be as far off as the plain one in fp32.
void compare(const Op& fused, const Op& plain, const Tensors& inputs, const std::string& what,
             double tolerance = 1e-5) {
  Tensors wide;
  for (const Tensor& input : inputs) wide.push_back(input.to(torch::kDouble));
  const Evaluation got = evaluate(fused, inputs), wanted = evaluate(plain, wide), rough = evaluate(plain, inputs);
  auto check = [&](const Tensor& a, const Tensor& reference, const Tensor& b, const std::string& part) {
    ASSERT_EQ(a.sizes(), reference.sizes()) << what << ": " << part;
    const double allowed = std::max(tolerance * std::max(largest(reference), 1e-3), 4 * distance(b, reference));
    EXPECT_LE(distance(a, reference), allowed) << what << ": " << part << " of largest value " << largest(reference);
  };
  check(got.value, wanted.value, rough.value, "value");
  for (size_t i = 0; i < inputs.size(); ++i) {
    auto or_zeros = [&](const Tensor& gradient) {
      return gradient.defined() ? gradient : torch::zeros_like(inputs[i]);
    };
    check(or_zeros(got.gradients[i]), or_zeros(wanted.gradients[i]), or_zeros(rough.gradients[i]),
          "gradient " + std::to_string(i));
  }
}

// Central differences of every element, in double.
void check_gradients(const Op& op, const Tensors& inputs, const std::string& what) {
  const Evaluation analytic = evaluate(op, inputs);
  torch::manual_seed(7);
  Tensor weight = torch::randn(analytic.value.sizes(), torch::kDouble);
  torch::NoGradGuard no_grad;
  for (size_t i = 0; i < inputs.size(); ++i) {
    Tensor numeric = torch::zeros_like(inputs[i]);
    for (int64_t at = 0; at < inputs[i].numel(); ++at) {
      auto shifted = [&](double by) {
        Tensors moved = inputs;
        moved[i] = inputs[i].clone();
        moved[i].view(-1)[at] += by;
        return (op(moved) * weight).sum().item<double>();
      };
      constexpr double kStep = 1e-6;
      numeric.view(-1)[at] = (shifted(kStep) - shifted(-kStep)) / (2 * kStep);
    }
    expect_close(analytic.gradients[i], numeric, 1e-6, what + ": gradient " + std::to_string(i));
  }
}

Tensor random(torch::IntArrayRef sizes, double scale = 1) { return torch::randn(sizes) * scale; }
Tensor random_double(torch::IntArrayRef sizes) { return torch::randn(sizes, torch::kDouble); }

class OpsTest : public ::testing::Test {
 protected:
  void SetUp() override { torch::manual_seed(1); }
};

TEST_F(OpsTest, RmsNorm) {
  for (int64_t dim : {1, 3, 16, 31, 64, 100}) {
    for (int64_t streams : {0, 1, 4, 7}) {
      Tensor x = streams == 0 ? random({5, dim}) : random({9, 3, streams, dim});
      Tensor weight = streams == 0 ? random({dim}) : random({streams, dim});
      compare([](const Tensors& t) { return rms_norm(t[0], t[1], 1e-5); },
              [](const Tensors& t) { return rms_norm_plain(t[0], t[1], 1e-5); }, {x, weight},
              "rms_norm dim " + std::to_string(dim) + " streams " + std::to_string(streams));
    }
  }
  compare([](const Tensors& t) { return rms_norm(t[0].transpose(0, 1), t[1], 1e-6); },
          [](const Tensors& t) { return rms_norm_plain(t[0].transpose(0, 1), t[1], 1e-6); },
          {random({300, 5, 24}), random({24})}, "rms_norm of a transposed view");
  check_gradients([](const Tensors& t) { return rms_norm_plain(t[0], t[1], 1e-5); },
                  {random_double({3, 2, 5}), random_double({2, 5})}, "rms_norm");
  EXPECT_THROW(rms_norm(random({4, 3}), random({4}), 1e-5), c10::Error);
  EXPECT_EQ(rms_norm(random({0, 8}), random({8}), 1e-5).size(0), 0);
}

TEST_F(OpsTest, Swiglu) {
  for (int64_t width : {1, 15, 16, 33, 64}) {
    compare([](const Tensors& t) { return swiglu(t[0]); }, [](const Tensors& t) { return swiglu_plain(t[0]); },
            {random({7, 3, 2 * width}, 4)}, "swiglu width " + std::to_string(width));
  }
  Tensor far = torch::tensor({-200.0f, -90.0f, 90.0f, 200.0f, 1.0f, 1.0f, 1.0f, 1.0f}).view({1, 8});
  compare([](const Tensors& t) { return swiglu(t[0]); }, [](const Tensors& t) { return swiglu_plain(t[0]); }, {far},
          "swiglu of large gates");
  check_gradients([](const Tensors& t) { return swiglu_plain(t[0]); }, {random_double({3, 6})}, "swiglu");
  EXPECT_THROW(swiglu(random({2, 3})), c10::Error);
  EXPECT_TRUE(std::isnan(swiglu(torch::full({1, 2}, NAN)).item<float>()));
}

// bf16 rows are read and written as they are, with the numbers that fp32 copies would give.
TEST_F(OpsTest, SwigluOfBf16EqualsRoundedFp32) {
  for (const int64_t width : {1, 7, 16, 33, 100}) {
    const Tensor x = random({5, 2 * width}, 3).to(torch::kBFloat16).set_requires_grad(true);
    const Tensor wide = x.detach().to(torch::kFloat).set_requires_grad(true);
    const Tensor dy = random({5, width}).to(torch::kBFloat16);
    const Tensor y = swiglu(x), expected = swiglu(wide);
    EXPECT_TRUE(y.equal(expected.to(torch::kBFloat16))) << width;
    y.backward(dy);
    expected.backward(dy.to(torch::kFloat));
    EXPECT_TRUE(x.grad().equal(wide.grad().to(torch::kBFloat16))) << width;
  }
}

TEST_F(OpsTest, Rope) {
  for (bool interleaved : {false, true}) {
    for (int64_t half : {1, 4, 8, 19}) {
      Tensor angle = random({6, half});
      auto with = [&](auto op) {
        return [=](const Tensors& t) {
          const auto type = t[0].scalar_type();
          return op(t[0], angle.to(type).cos(), angle.to(type).sin(), interleaved);
        };
      };
      compare(with(apply_rope), with(apply_rope_plain), {random({2, 6, 3, 2 * half})},
              "rope half " + std::to_string(half));
    }
  }
  // One pair by hand: (1, 2) turned by 0.5.
  Tensor x = torch::tensor({1.0f, 2.0f}).view({1, 1, 1, 2});
  Tensor y = apply_rope(x, torch::full({1, 1}, std::cos(0.5)), torch::full({1, 1}, std::sin(0.5)), true);
  EXPECT_NEAR(y[0][0][0][0].item<float>(), std::cos(0.5) - 2 * std::sin(0.5), 1e-6);
  EXPECT_NEAR(y[0][0][0][1].item<float>(), 2 * std::cos(0.5) + std::sin(0.5), 1e-6);
}

TEST_F(OpsTest, LinearCrossEntropy) {
  for (auto [tokens, dim, vocabulary] : std::vector<std::array<int64_t, 3>>{
           {1, 1, 1}, {1, 5, 7}, {3, 16, 64}, {47, 24, 65}, {49, 33, 129}, {200, 64, 1000}, {97, 7, 4}}) {
    Tensor targets = torch::randint(0, vocabulary, {tokens}, torch::kLong);
    for (int64_t i = 2; i < tokens; i += 5) targets[i] = -1;
    for (bool sum : {false, true}) {
      compare([=](const Tensors& t) { return linear_cross_entropy(t[0], t[1], targets, sum); },
              [=](const Tensors& t) { return linear_cross_entropy_plain(t[0], t[1], targets, sum); },
              {random({tokens, dim}), random({vocabulary, dim}, 0.5)},
              "cross entropy of " + std::to_string(tokens) + " tokens, vocabulary " + std::to_string(vocabulary));
    }
  }
  Tensor targets = torch::tensor({1, -1, 0}, torch::kLong);
  check_gradients([=](const Tensors& t) { return linear_cross_entropy_plain(t[0], t[1], targets); },
                  {random_double({3, 4}), random_double({5, 4})}, "plain cross entropy");
  check_gradients([=](const Tensors& t) { return linear_cross_entropy(t[0], t[1], targets); },
                  {random_double({3, 4}), random_double({5, 4})}, "chunked cross entropy");
}

TEST_F(OpsTest, LinearCrossEntropyEdges) {
  Tensor hidden = random({4, 8}).set_requires_grad(true), weight = random({10, 8}).set_requires_grad(true);
  Tensor loss = linear_cross_entropy(hidden, weight, torch::full({4}, -1, torch::kLong));
  EXPECT_EQ(loss.item<float>(), 0);
  loss.backward();
  EXPECT_EQ(hidden.grad().abs().max().item<float>(), 0);
  EXPECT_EQ(weight.grad().abs().max().item<float>(), 0);
  EXPECT_THROW(linear_cross_entropy(hidden, weight, torch::full({4}, 10, torch::kLong)), c10::Error);
  EXPECT_THROW(linear_cross_entropy(hidden, weight, torch::zeros({3}, torch::kLong)), c10::Error);
  // Logits of a thousand: the shifted exponentials neither overflow nor lose the target.
  Tensor far = torch::tensor({1000.0f, 0.0f}).view({1, 2}), eye = torch::eye(2);
  EXPECT_NEAR(linear_cross_entropy(far, eye, torch::ones({1}, torch::kLong)).item<float>(), 1000, 1e-3);
  EXPECT_NEAR(linear_cross_entropy(far, eye, torch::zeros({1}, torch::kLong)).item<float>(), 0, 1e-6);
  Tensor broken = torch::full({1, 2}, NAN);
  EXPECT_TRUE(std::isnan(linear_cross_entropy(broken, eye, torch::zeros({1}, torch::kLong)).item<float>()));
}

// Tokens that do not count cost nothing and change nothing: the rest is as if they were not there, to the bit.
TEST_F(OpsTest, LinearCrossEntropyLeavesUncountedTokensOut) {
  Tensor hidden = random({150, 32}).set_requires_grad(true), weight = random({70, 32}).set_requires_grad(true);
  Tensor targets = torch::randint(0, 70, {150}, torch::kLong);
  targets.masked_fill_(torch::rand({150}) < 0.6, -1);
  const Tensor counted = (targets >= 0).nonzero().squeeze(1);
  const Tensor loss = linear_cross_entropy(hidden, weight, targets);
  loss.backward();
  Tensor rows = hidden.detach().index_select(0, counted).set_requires_grad(true);
  Tensor again = weight.detach().clone().set_requires_grad(true);
  const Tensor alone = linear_cross_entropy(rows, again, targets.index_select(0, counted));
  alone.backward();
  EXPECT_TRUE(loss.equal(alone));
  EXPECT_TRUE(weight.grad().equal(again.grad()));
  EXPECT_TRUE(hidden.grad().index_select(0, counted).equal(rows.grad()));
  EXPECT_EQ(hidden.grad().masked_fill((targets >= 0).unsqueeze(1), 0).abs().max().item<float>(), 0);
}

TEST_F(OpsTest, LinearCrossEntropyInBf16) {
  Tensor targets = torch::randint(0, 300, {131}, torch::kLong);
  for (int64_t dim : {64, 37}) {
    // Inputs that bf16 holds exactly, so that only the gradients' own rounding remains.
    Tensor hidden = random({131, dim}).to(torch::kBFloat16), weight = random({300, dim}, 0.3).to(torch::kBFloat16);
    compare([=](const Tensors& t) { return linear_cross_entropy(t[0].to(torch::kBFloat16), t[1], targets); },
            [=](const Tensors& t) { return linear_cross_entropy_plain(t[0], t[1], targets); },
            {hidden.to(torch::kFloat), weight.to(torch::kFloat)}, "bf16 cross entropy", 8e-3);
  }
}

TEST_F(OpsTest, LinearCrossEntropyUnderAutocastTakesBf16) {
  if (!bf16_cross_entropy_supported()) GTEST_SKIP() << "this CPU does not multiply bf16";
  Tensor targets = torch::randint(0, 300, {131}, torch::kLong);
  Tensor hidden = random({131, 64}), weight = random({300, 64}, 0.3);
  const bool before = at::autocast::is_autocast_enabled(at::kCPU);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const Tensor loss = linear_cross_entropy(hidden, weight, targets);
  at::autocast::set_autocast_enabled(at::kCPU, before);
  EXPECT_TRUE(torch::equal(loss, linear_cross_entropy(hidden.to(torch::kBFloat16), weight, targets)));
  EXPECT_FALSE(torch::equal(loss, linear_cross_entropy(hidden, weight, targets)));
}

TEST_F(OpsTest, MoeExperts) {
  struct Case {
    int64_t tokens, dim, width, experts, choices;
  };
  for (const Case& c : {Case{1, 4, 3, 1, 1}, Case{1, 16, 8, 6, 2}, Case{40, 20, 17, 5, 1}, Case{64, 64, 32, 42, 2},
                        Case{700, 24, 33, 3, 3}, Case{5, 65, 1, 40, 2}}) {
    Tensor scores = torch::rand({c.tokens, c.experts});
    scores.select(1, c.experts - 1) = c.experts > c.choices ? -1 : 1;  // the last expert gets no token
    Tensor index = std::get<1>(scores.topk(c.choices, 1));
    compare([=](const Tensors& t) { return moe_experts(t[0], t[1], t[2], index, t[3]); },
            [=](const Tensors& t) { return moe_experts_plain(t[0], t[1], t[2], index, t[3]); },
            {random({c.tokens, c.dim}), random({c.experts, 2 * c.width, c.dim}, 0.3),
             random({c.experts, c.dim, c.width}, 0.3), torch::rand({c.tokens, c.choices})},
            "moe of " + std::to_string(c.tokens) + " tokens, " + std::to_string(c.experts) + " experts");
  }
  Tensor index = torch::tensor({{0, 3}, {3, 1}, {0, 1}}, torch::kLong);
  check_gradients([=](const Tensors& t) { return moe_experts_plain(t[0], t[1], t[2], index, t[3]); },
                  {random_double({3, 4}), random_double({4, 6, 4}), random_double({4, 4, 3}), random_double({3, 2})},
                  "moe");
  Tensor x = random({1, 4}), gate_up = random({2, 6, 4}), down = random({2, 4, 3}), weight = torch::ones({1, 1});
  EXPECT_THROW(moe_experts(x, gate_up, down, torch::full({1, 1}, 2, torch::kLong), weight), c10::Error);
  EXPECT_THROW(moe_experts(x, gate_up, down, torch::full({1, 1}, -1, torch::kLong), weight), c10::Error);
  // The grouped product of libtorch, which the plain form takes in fp32, is a second reference.
  Tensor first = moe_experts(x, gate_up, down, torch::zeros({1, 1}, torch::kLong), weight);
  expect_close(first, moe_experts_plain(x, gate_up, down, torch::zeros({1, 1}, torch::kLong), weight), 1e-5, "grouped");
}

TEST_F(OpsTest, GatherRows) {
  for (int64_t width : {1, 8, 20}) {
    Tensor index = torch::randint(0, 30, {3, 5, 4}, torch::kLong);
    compare([=](const Tensors& t) { return gather_rows(t[0], index); },
            [=](const Tensors& t) { return gather_rows_plain(t[0], index); }, {random({31, width})},
            "gather width " + std::to_string(width));
  }
  EXPECT_THROW(gather_rows(random({4, 8}), torch::full({1, 1, 1}, 4, torch::kLong)), c10::Error);
  EXPECT_THROW(gather_rows(random({4, 8}), torch::full({1, 1, 1}, -1, torch::kLong)), c10::Error);
}

struct FuseCase {
  int64_t batch, length, streams, dim, taps, dilation;
  bool gate = true;
  bool reach = true;
};

// Documents of random length, some positions masked.
Tensor random_reach(int64_t batch, int64_t length) {
  Tensor reach = torch::empty({batch, length}, torch::kInt), draw = torch::rand({batch, length});
  for (int64_t b = 0; b < batch; ++b) {
    int32_t visible = 0;
    for (int64_t t = 0; t < length; ++t) {
      const float u = draw[b][t].item<float>();
      const bool masked = u < 0.1f;
      if (u > 0.9f) visible = 0;
      reach[b][t] = masked ? -1 : visible;
      visible = masked ? 0 : visible + 1;
    }
  }
  return reach;
}

Op fuse_op(const FuseCase& c, const Tensor& reach, bool plain) {
  EngramFuseOptions options;
  options.dilation = c.dilation;
  options.gate = c.gate;
  return [=](const Tensors& t) {
    Tensor none;
    const bool conv = c.taps > 0;
    const auto op = plain ? engram_fuse_plain : engram_fuse;
    return op(t[0], t[1], t[2], t[3], conv ? t[4] : none, conv ? t[5] : none, reach, options).first;
  };
}

Tensors fuse_inputs(const FuseCase& c, torch::Dtype type) {
  Tensors inputs{torch::randn({c.batch, c.length, c.streams, c.dim}, type),
                 torch::randn({c.batch, c.length, (c.streams + 1) * c.dim}, type),
                 torch::randn({c.streams, c.dim}, type), torch::randn({c.streams, c.dim}, type)};
  if (c.taps > 0) {
    inputs.push_back(torch::randn({c.streams, c.dim}, type));
    inputs.push_back(torch::randn({c.streams * c.dim, c.taps}, type));
  }
  return inputs;
}

TEST_F(OpsTest, EngramFuse) {
  std::vector<FuseCase> cases{{1, 1, 1, 1, 4, 3},
                              {2, 40, 1, 64, 4, 3},
                              {3, 13, 4, 20, 4, 2},
                              {2, 9, 2, 33, 1, 1},
                              {1, 7, 3, 5, 6, 3},
                              {2, 30, 1, 16, 0, 1},
                              {2, 30, 2, 17, 4, 3, /*gate=*/false},
                              {2, 21, 1, 24, 4, 3, true, /*reach=*/false}};
  for (int64_t streams = 1; streams <= 8; ++streams) cases.push_back({2, 70, streams, 12, 4, 3});
  for (const FuseCase& c : cases) {
    Tensor reach = c.reach ? random_reach(c.batch, c.length) : Tensor();
    compare(fuse_op(c, reach, false), fuse_op(c, reach, true), fuse_inputs(c, torch::kFloat),
            "fuse T " + std::to_string(c.length) + " M " + std::to_string(c.streams) + " d " + std::to_string(c.dim) +
                " w " + std::to_string(c.taps));
  }
  const FuseCase small{2, 5, 2, 3, 3, 2};
  check_gradients(fuse_op(small, random_reach(2, 5), true), fuse_inputs(small, torch::kDouble), "fuse");
}

TEST_F(OpsTest, EngramFuseGatesAndMasks) {
  Tensor reach = torch::tensor({{0, 1, -1, 0, 9}}, torch::kInt);  // the last claims more than exists
  const FuseCase c{1, 5, 2, 8, 4, 3};
  Tensors t = fuse_inputs(c, torch::kFloat);
  auto [y, alpha] = engram_fuse(t[0], t[1], t[2], t[3], t[4], t[5], reach, {});
  auto [y_ref, alpha_ref] = engram_fuse_plain(t[0], t[1], t[2], t[3], t[4], t[5], reach, {});
  expect_close(y, y_ref, 1e-5, "y");
  expect_close(alpha, alpha_ref, 1e-5, "alpha");
  EXPECT_EQ(y[0][2].abs().max().item<float>(), 0);
  EXPECT_EQ(alpha[0][2].abs().max().item<float>(), 0);
  // A key of zeros scores exactly 0: sign(0) = 0, so the gate is one half, and no gradient is NaN.
  t[1].narrow(-1, 0, 2 * 8).zero_();
  for (Tensor& x : t) x.set_requires_grad(true);
  auto [y0, alpha0] = engram_fuse(t[0], t[1], t[2], t[3], t[4], t[5], torch::zeros({1, 5}, torch::kInt), {});
  EXPECT_EQ(alpha0.min().item<float>(), 0.5f);
  EXPECT_FALSE(alpha0.requires_grad());
  y0.sum().backward();
  for (const Tensor& x : t) EXPECT_TRUE(x.grad().isfinite().all().item<bool>());
  EXPECT_THROW(engram_fuse(t[0], t[1].narrow(-1, 0, 16), t[2], t[3], t[4], t[5], reach, {}), c10::Error);
  EXPECT_THROW(engram_fuse(t[0], t[1], t[2], t[3], t[4], t[5], reach.to(torch::kLong), {}), c10::Error);
}

TEST_F(OpsTest, Bf16InputsComeBackAsBf16) {
  const FuseCase c{2, 6, 2, 16, 4, 3};
  Tensors t = fuse_inputs(c, torch::kBFloat16);
  auto [y, alpha] = engram_fuse(t[0], t[1], t[2], t[3], t[4], t[5], Tensor(), {});
  EXPECT_EQ(y.scalar_type(), torch::kBFloat16);
  EXPECT_EQ(alpha.scalar_type(), torch::kFloat);
  Tensor x = random({4, 8}).to(torch::kBFloat16).set_requires_grad(true);
  Tensor normed = rms_norm(x, torch::ones({8}), 1e-5);
  EXPECT_EQ(normed.scalar_type(), torch::kBFloat16);
  expect_close(normed, rms_norm_plain(x, torch::ones({8}), 1e-5), 1e-6, "bf16 norm");
  normed.sum().backward();
  EXPECT_EQ(x.grad().scalar_type(), torch::kBFloat16);
}

// Runs give the same bits, and all but the vocabulary-split loss do for any number of threads.
TEST_F(OpsTest, Deterministic) {
  const FuseCase c{3, 120, 2, 24, 4, 3};
  const Tensors fuse_t = fuse_inputs(c, torch::kFloat);
  Tensor index = std::get<1>(torch::rand({500, 7}).topk(2, 1));
  const Tensors moe_t{random({500, 24}), random({7, 40, 24}), random({7, 24, 20}), torch::rand({500, 2})};
  Tensor targets = torch::randint(0, 500, {300}, torch::kLong), rows = torch::randint(0, 40, {10, 20, 4}, torch::kLong);
  struct Check {
    Op op;
    Tensors inputs;
    bool any_threads;
  };
  const std::vector<Check> checks{
      {fuse_op(c, random_reach(3, 120), false), fuse_t, true},
      {[=](const Tensors& t) { return moe_experts(t[0], t[1], t[2], index, t[3]); }, moe_t, true},
      {[](const Tensors& t) { return rms_norm(t[0], t[1], 1e-5); }, {random({2000, 24}), random({24})}, true},
      {[=](const Tensors& t) { return gather_rows(t[0], rows); }, {random({40, 8})}, true},
      {[=](const Tensors& t) { return linear_cross_entropy(t[0], t[1], targets); },
       {random({300, 16}), random({500, 16})},
       false}};
  const int threads = at::get_num_threads();
  for (size_t i = 0; i < checks.size(); ++i) {
    at::set_num_threads(2);
    const Evaluation first = evaluate(checks[i].op, checks[i].inputs);
    for (int other : {2, 1}) {
      if (other == 1 && !checks[i].any_threads) continue;
      at::set_num_threads(other);
      const Evaluation second = evaluate(checks[i].op, checks[i].inputs);
      EXPECT_TRUE(first.value.equal(second.value)) << i;
      for (size_t g = 0; g < first.gradients.size(); ++g) {
        EXPECT_TRUE(first.gradients[g].equal(second.gradients[g])) << i << ' ' << g;
      }
    }
  }
  at::set_num_threads(threads);
}

TEST(Parallel, UsesEveryThreadOnce) {
  const int threads = at::get_num_threads();
  at::set_num_threads(2);
  std::vector<int> count(1000);
  parallel_ranges(1000, 1, [&](int64_t begin, int64_t end) {
    EXPECT_LE(end - begin, 500);
    for (int64_t i = begin; i < end; ++i) ++count[static_cast<size_t>(i)];
  });
  for (int c : count) EXPECT_EQ(c, 1);
  EXPECT_THROW(parallel_tasks(4, [](int64_t i) { TORCH_CHECK(i != 3, "three"); }), c10::Error);
  at::set_num_threads(threads);
}

// A few rows in inference mode take the kernel; everything else is at::linear itself.
TEST(Linear, EqualsAtLinear) {
  const c10::InferenceMode inference;
  torch::manual_seed(5);
  for (int64_t rows : {1, 2, 4, 5, 17, 32, 40, 64, 65}) {
    for (int64_t k : {3, 64, 130}) {
      const Tensor x = torch::randn({rows, k}), weight = torch::randn({rows % 2 == 0 ? 37 : 230, k});
      expect_close(linear_rows(x, weight), at::linear(x, weight), 1e-5, "rows");
      expect_close(linear_rows(x.unsqueeze(0), weight), at::linear(x.unsqueeze(0), weight), 1e-5, "three dimensions");
      const Tensor strided = torch::randn({rows, 2 * k}).narrow(1, 0, k);
      expect_close(linear_rows(strided, weight), at::linear(strided, weight), 1e-5, "strided");
      const Tensor wide = x.to(torch::kDouble);
      expect_close(linear_rows(wide, weight.to(torch::kDouble)), at::linear(wide, weight.to(torch::kDouble)), 0,
                   "double");
    }
  }
}

}  // namespace
}  // namespace engram
