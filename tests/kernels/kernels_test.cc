// Each vector kernel against the plain oracle beside it, over sizes around the vector width.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "engram/kernels/bf16.h"
#include "engram/kernels/cross_entropy.h"
#include "engram/kernels/engram_fuse.h"
#include "engram/kernels/gemm.h"
#include "engram/kernels/gemm_bf16.h"
#include "engram/kernels/gemv.h"
#include "engram/kernels/moe.h"
#include "engram/kernels/norm.h"
#include "engram/kernels/rope.h"
#include "engram/kernels/rows.h"
#include "engram/kernels/swiglu.h"
#include "tests/kernels/draw.h"

namespace engram {
namespace {

TEST(Gemm, EqualsPlain) {
  Draw draw(1);
  for (int64_t m : {1, 2, 5, 6, 7, 13, 48}) {
    for (int64_t n : {1, 15, 16, 17, 32, 48, 63, 64, 65, 130}) {
      for (int64_t k : {0, 1, 3, 64}) {
        for (bool transposed : {false, true}) {
          const Values a = draw.values(m * k + 1), b = draw.values(k * (n + 2) + 1), start = draw.values(m * (n + 3));
          const StridedMatrix view = transposed ? StridedMatrix{a.data(), 1, m} : StridedMatrix{a.data(), k, 1};
          for (bool add : {false, true}) {
            Values got = start, wanted = start;
            gemm(m, n, k, view, b.data(), n + 2, got.data(), n + 3, add);
            gemm_plain(m, n, k, view, b.data(), n + 2, wanted.data(), n + 3, add);
            // Elements between the rows are compared too: they must be untouched.
            expect_near(got, wanted, 3e-6, "m " + std::to_string(m) + " n " + std::to_string(n));
          }
        }
      }
    }
  }
}

TEST(Gemv, EqualsPlainGemm) {
  Draw draw(11);
  for (int64_t m = 1; m <= kGemvRows; ++m) {
    for (int64_t n : {1, 3, 4, 9, 70}) {
      for (int64_t k : {1, 5, 16, 17, 64, 131}) {
        const Values x = draw.values(m * k), w = draw.values(n * k);
        Values got = draw.values(m * n), parts = got, wanted = got;
        gemv(m, n, k, x.data(), w.data(), 0, n, got.data());
        // wanted = x w^T = the transpose of w x^T.
        Values columns(static_cast<size_t>(k * m)), out(static_cast<size_t>(n * m));
        transpose(x.data(), m, k, columns.data(), m);
        gemm_plain(n, m, k, {w.data(), k, 1}, columns.data(), m, out.data(), m, false);
        transpose(out.data(), n, m, wanted.data(), n);
        expect_near(got, wanted, 1e-5, "m " + std::to_string(m) + " n " + std::to_string(n));
        gemv(m, n, k, x.data(), w.data(), 0, n / 2, parts.data());
        gemv(m, n, k, x.data(), w.data(), n / 2, n, parts.data());
        EXPECT_EQ(got, parts) << "a sum depends on how outputs are split";
        // bf16 weights give what the same weights give in fp32.
        std::vector<uint16_t> halves(w.size());
        Values rounded = w;
        for (size_t i = 0; i < w.size(); ++i) rounded[i] = widen_bf16(halves[i] = round_to_bf16(w[i]));
        gemv(m, n, k, x.data(), rounded.data(), 0, n, got.data());
        gemv(m, n, k, x.data(), halves.data(), 0, n, parts.data());
        EXPECT_EQ(got, parts) << "bf16";
      }
    }
  }
}

TEST(Gemm, Bf16EqualsPlain) {
  if (!bf16_gemm_supported()) GTEST_SKIP() << "this CPU has no AVX512_BF16";
  Draw draw(2);
  auto words = [&](int64_t size) {
    const Values v = draw.values(2 * size);
    std::vector<uint32_t> out(static_cast<size_t>(size));
    for (size_t i = 0; i < out.size(); ++i) out[i] = bf16_word(v[2 * i], v[2 * i + 1]);
    return out;
  };
  for (int64_t m : {1, 6, 13, 16, 37, 48}) {
    for (int64_t n : {1, 16, 17, 64, 70, 128}) {
      for (int64_t k : {1, 7, 16, 39, 64}) {
        for (bool transposed : {false, true}) {
          const std::vector<uint32_t> a = words(m * k), b = words(k * n);
          const StridedWords view = transposed ? StridedWords{a.data(), 1, m} : StridedWords{a.data(), k, 1};
          const Values start = draw.values(m * n);
          for (bool add : {false, true}) {
            Values got = start, wanted = start;
            gemm_bf16(m, n, k, view, b.data(), n, got.data(), n, add);
            gemm_bf16_plain(m, n, k, view, b.data(), n, wanted.data(), n, add);
            expect_near(got, wanted, 3e-6, "m " + std::to_string(m) + " n " + std::to_string(n));
          }
        }
      }
    }
  }
}

TEST(Gemm, Bf16WordsRoundToNearestEven) {
  EXPECT_EQ(bf16_word(1.0f, -2.0f), 0xc0003f80u);
  EXPECT_EQ(bf16_word(1.0f + 1.0f / 256, 0), 0x3f80u);  // a tie goes to the even neighbour
  EXPECT_EQ(bf16_word(1.0f + 3.0f / 256, 0), 0x3f82u);
  EXPECT_EQ(bf16_word(std::numeric_limits<float>::infinity(), 0), 0x7f80u);
}

TEST(Norm, EqualsPlain) {
  Draw draw(3);
  for (int64_t dim : {3, 7, 16, 40, 64}) {
    for (int64_t streams : {1, 3}) {
      const RmsNormShape shape{dim, streams, 1e-5f};
      const int64_t rows = 12;
      const Values x = draw.values(rows * dim), w = draw.values(streams * dim), dy = draw.values(rows * dim);
      Values y = filled(rows * dim, 0), inv = filled(rows, 0), y2 = y, inv2 = inv;
      rms_norm_forward(shape, x.data(), w.data(), 0, rows, y.data(), inv.data());
      rms_norm_forward_plain(shape, x.data(), w.data(), 0, rows, y2.data(), inv2.data());
      expect_near(y, y2, 1e-6, "y");
      Values dx = y, dw = filled(streams * dim, 0), dx2 = y, dw2 = dw;
      rms_norm_backward(shape, x.data(), w.data(), inv2.data(), dy.data(), 0, rows, dx.data(), dw.data());
      rms_norm_backward_plain(shape, x.data(), w.data(), inv2.data(), dy.data(), 0, rows, dx2.data(), dw2.data());
      expect_near(dx, dx2, 2e-6, "dx");
      expect_near(dw, dw2, 2e-6, "dw");
    }
  }
}

TEST(Swiglu, EqualsPlain) {
  Draw draw(4);
  for (int64_t width : {1, 16, 21, 64}) {
    const Values x = draw.values(6 * width, 5), dy = draw.values(3 * width);
    Values y = filled(3 * width, 0), y2 = y, dx = filled(6 * width, 0), dx2 = dx;
    swiglu_forward(x.data(), width, 0, 3, y.data());
    swiglu_forward_plain(x.data(), width, 0, 3, y2.data());
    expect_near(y, y2, 1e-6, "y");
    swiglu_backward(x.data(), dy.data(), width, 0, 3, dx.data());
    swiglu_backward_plain(x.data(), dy.data(), width, 0, 3, dx2.data());
    expect_near(dx, dx2, 1e-6, "dx");
  }
}

TEST(Rope, InverseTurnsBackAndNormStays) {
  Draw draw(5);
  for (bool interleaved : {false, true}) {
    RopeShape shape{4, 3, 5, interleaved, false};
    Values cos(20), sin(20);
    for (size_t i = 0; i < cos.size(); ++i) {
      cos[i] = static_cast<float>(std::cos(0.3 * double(i)));
      sin[i] = static_cast<float>(std::sin(0.3 * double(i)));
    }
    const Values x = draw.values(2 * 4 * 3 * 10);
    Values y = x, back = x;
    rope(shape, x.data(), cos.data(), sin.data(), 0, 24, y.data());
    // Row 3 is token 1, pair 2: by hand.
    const size_t a = 3 * 10 + (interleaved ? 4 : 2), b = interleaved ? a + 1 : a + 5;
    EXPECT_NEAR(y[a], x[a] * cos[7] - x[b] * sin[7], 1e-6);
    EXPECT_NEAR(y[b], x[b] * cos[7] + x[a] * sin[7], 1e-6);
    shape.inverse = true;
    rope(shape, y.data(), cos.data(), sin.data(), 0, 24, back.data());
    expect_near(back, x, 1e-6, "back");
  }
}

TEST(Rows, EqualsPlainForAnySplit) {
  Draw draw(6);
  for (int64_t width : {1, 8, 16, 19}) {
    const Values rows = draw.values(20 * width), gradient = draw.values(70 * width);
    std::vector<int64_t> index(70);
    for (int64_t& i : index) i = draw.below(20);
    Values out = filled(70 * width, 0), out2 = out, sums = filled(20 * width, 9), sums2 = sums;
    gather_rows(rows.data(), width, index.data(), 0, 31, out.data());
    gather_rows(rows.data(), width, index.data(), 31, 70, out.data());
    gather_rows_plain(rows.data(), width, index.data(), 0, 70, out2.data());
    EXPECT_EQ(out, out2);
    std::vector<int64_t> low, high;  // positions of the rows below 7, and of the others
    for (int64_t i = 0; i < 70; ++i) (index[static_cast<size_t>(i)] < 7 ? low : high).push_back(i);
    scatter_add_rows(gradient.data(), width, index.data(), high.data(), std::ssize(high), sums.data());
    scatter_add_rows(gradient.data(), width, index.data(), low.data(), std::ssize(low), sums.data());
    scatter_add_rows_plain(gradient.data(), width, index.data(), nullptr, 70, sums2.data());
    EXPECT_EQ(sums, sums2);
  }
}

void serial(int64_t tasks, const std::function<void(int64_t)>& work) {
  for (int64_t i = 0; i < tasks; ++i) work(i);
}

TEST(CrossEntropy, EqualsPlain) {
  Draw draw(8);
  for (bool bf16 : {false, true}) {
    if (bf16 && !bf16_cross_entropy_supported()) continue;
    for (auto [tokens, dim, vocabulary] : {std::array<int64_t, 3>{1, 1, 1}, {3, 5, 64}, {50, 33, 200}, {97, 16, 65}}) {
      for (int64_t tasks : {1, 2, 5}) {
        const Values hidden = draw.values(tokens * dim), weight = draw.values(vocabulary * dim, 0.3f);
        std::vector<int64_t> targets(static_cast<size_t>(tokens));
        for (int64_t& t : targets) t = draw.below(vocabulary + 1) - 1;
        CrossEntropyArguments a;
        a.tokens = tokens;
        a.dim = dim;
        a.vocabulary = vocabulary;
        a.hidden = hidden.data();
        a.weight = weight.data();
        a.targets = targets.data();
        a.gradient_scale = 0.25f;
        Values dh = filled(tokens * dim, 7), dw = filled(vocabulary * dim, 7), dh2 = dh, dw2 = dw;
        const double loss_alone = cross_entropy(a, tasks, serial);
        CrossEntropyArguments b = a;
        a.dhidden = dh.data();
        a.dweight = dw.data();
        a.bf16 = bf16;
        b.dhidden = dh2.data();
        b.dweight = dw2.data();
        const double loss = cross_entropy(a, tasks, serial), wanted = cross_entropy_plain(b);
        const double tolerance = bf16 ? 1e-2 : 5e-6;
        EXPECT_NEAR(loss, wanted, tolerance * (1 + std::fabs(wanted)));
        EXPECT_NEAR(loss_alone, wanted, 1e-5 * (1 + std::fabs(wanted)));
        expect_near(dh, dh2, tolerance, "dhidden");
        expect_near(dw, dw2, tolerance, "dweight");
        Values dh3 = filled(tokens * dim, 7);
        a.dhidden = dh3.data();
        a.dweight = nullptr;  // of a frozen head
        EXPECT_EQ(cross_entropy(a, tasks, serial), loss);
        EXPECT_EQ(dh3, dh);
      }
    }
  }
}

TEST(Moe, GroupsInOrderAndRejectsBadExperts) {
  const std::vector<int64_t> index{2, 0, 2, 1, 0, 2};
  const MoeShape shape{3, 1, 1, 4, 2};
  const MoeGroups groups = value_or_throw(group_by_expert(index.data(), shape));
  EXPECT_EQ(groups.offsets, (std::vector<int64_t>{0, 2, 3, 6, 6}));
  EXPECT_EQ(groups.assignments, (std::vector<int64_t>{1, 4, 3, 0, 2, 5}));
  for (int64_t tasks : {1, 2, 3, 9}) {
    int64_t next = 0;
    for (int64_t i = 0; i < tasks; ++i) {
      const auto [begin, end] = expert_range(groups, i, tasks);
      EXPECT_EQ(begin, next);
      next = end;
    }
    EXPECT_EQ(next, 4);
  }
  const std::vector<int64_t> bad{0, 1, 4, 0, 0, 0};
  const Status status = group_by_expert(bad.data(), shape).status();
  EXPECT_EQ(status.code(), StatusCode::kOutOfRange);
  EXPECT_NE(status.message().find("token 1, choice 0: got 4, wanted 0 to 3"), std::string::npos);
}

TEST(Moe, TheLargestScoresAreChosenInOrder) {
  Draw draw(3);
  const int64_t rows = 50, experts = 37;
  Values scores = draw.values(rows * experts);
  for (float& score : scores) score = std::round(score * 4);  // with ties
  for (const int64_t k : {1, 2, 6, 37}) {
    std::vector<int64_t> index(static_cast<size_t>(rows * k));
    choose_largest(scores.data(), rows, experts, k, index.data());
    for (int64_t row = 0; row < rows; ++row) {
      const float* from = scores.data() + row * experts;
      std::vector<int64_t> wanted(static_cast<size_t>(experts));
      std::iota(wanted.begin(), wanted.end(), 0);
      std::stable_sort(wanted.begin(), wanted.end(), [&](int64_t a, int64_t b) { return from[a] > from[b]; });
      wanted.resize(static_cast<size_t>(k));
      EXPECT_EQ(std::vector<int64_t>(index.begin() + row * k, index.begin() + (row + 1) * k), wanted);
    }
  }
  const float nan = std::nanf("");
  const std::vector<float> bad = {nan, nan, 1, nan};
  std::vector<int64_t> index(3);
  choose_largest(bad.data(), 1, 4, 3, index.data());
  EXPECT_EQ(index, (std::vector<int64_t>{2, 0, 1}));
}

TEST(Moe, ForwardEqualsPlain) {
  Draw draw(9);
  const MoeShape shape{700, 20, 17, 3, 2};  // more rows than one block
  const Values x = draw.values(700 * 20), gate_up = draw.values(3 * 34 * 20), down = draw.values(3 * 20 * 17);
  const Values weight = draw.values(700 * 2);
  std::vector<int64_t> index(1400);
  for (size_t i = 0; i < 1400; i += 2) index[i] = draw.below(2), index[i + 1] = 2 * draw.below(2);
  const MoeInput input{x.data(), gate_up.data(), down.data(), weight.data()};
  const MoeGroups groups = value_or_throw(group_by_expert(index.data(), shape));
  Values inner = filled(1400 * 34, 0), rows = filled(1400 * 20, 0), y = filled(700 * 20, 0), y2 = y;
  moe_forward(shape, groups, input, 0, 1, inner.data(), rows.data());
  moe_forward(shape, groups, input, 1, 3, inner.data(), rows.data());
  moe_combine(shape, rows.data(), weight.data(), 0, 700, y.data());
  moe_plain(shape, input, index.data(), y2.data());
  expect_near(y, y2, 2e-6, "y");
}

TEST(EngramFuse, ForwardEqualsPlain) {
  Draw draw(10);
  for (int64_t dim : {1, 13, 16, 40}) {
    for (int64_t streams : {1, 3}) {
      for (int64_t taps : {0, 1, 4}) {
        EngramShape shape{2, 23, streams, dim, taps, 3, 1.1920929e-7f, 1e-5f, dim != 40};
        const Values hidden = draw.values(46 * streams * dim), projected = draw.values(46 * (streams + 1) * dim);
        const Values q = draw.values(streams * dim), k = draw.values(streams * dim), c = draw.values(streams * dim);
        const Values conv = draw.values(streams * dim * 4);
        std::vector<int32_t> reach(46);
        for (int32_t& r : reach) r = static_cast<int32_t>(draw.below(30)) - 1;
        EngramInput input{hidden.data(), projected.data(), q.data(), k.data(), c.data(), conv.data(), reach.data()};
        Values y = filled(46 * streams * dim, 0), alpha = filled(46 * streams, 0), y2 = y, alpha2 = alpha;
        Values folded = filled(taps * streams * dim + 1, 0);
        std::vector<EngramTokenState> state(static_cast<size_t>(46 * streams));
        if (taps > 0) engram_fold_taps(shape, input, folded.data());
        engram_gate_forward(shape, input, 0, 46, alpha.data(), state.data());
        engram_mix_forward(shape, input, folded.data(), alpha.data(), state.data(), 0, 20, y.data());
        engram_mix_forward(shape, input, folded.data(), alpha.data(), state.data(), 20, 46, y.data());
        engram_fuse_plain(shape, input, y2.data(), alpha2.data());
        expect_near(alpha, alpha2, 1e-6, "alpha");
        expect_near(y, y2, 2e-6, "y");
      }
    }
  }
}

}  // namespace
}  // namespace engram
