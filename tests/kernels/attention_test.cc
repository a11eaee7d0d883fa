// The attention kernel against its plain oracle in double, and its gradient against differences of that oracle.
#include "engram/kernels/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace engram {
namespace {

struct Case {
  AttentionShape shape;
  std::vector<float> query, key_value, key_rope, cos, sin;
  std::vector<int32_t> first_key;
  bool shared = true;

  AttentionInput input() const {
    const int64_t pair = shape.nope + shape.value, rope_row = shared ? shape.rope : shape.kv_heads * shape.rope;
    AttentionInput in;
    in.query = {query.data(), shape.heads * shape.width(), shape.width()};
    in.key = {key_value.data(), shape.kv_heads * pair, pair};
    in.value = {key_value.data() + shape.nope, shape.kv_heads * pair, pair};
    in.key_rope = {key_rope.data(), rope_row, shared ? 0 : shape.rope};
    in.cos = cos.data();
    in.sin = sin.data();
    in.first_key = first_key.empty() ? nullptr : first_key.data();
    return in;
  }
  size_t out_size() const { return static_cast<size_t>(shape.length * shape.heads * shape.value); }
};

std::vector<float> random_floats(int64_t n, std::mt19937& engine) {
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(n));
  for (float& v : values) v = normal(engine);
  return values;
}

Case make_case(int64_t length, bool mla, bool documents) {
  std::mt19937 engine(static_cast<unsigned>(length));
  Case c;
  AttentionShape& s = c.shape;
  s.length = length;
  s.heads = 4;
  s.kv_heads = mla ? 4 : 2;
  s.nope = mla ? 5 : 0;
  s.rope = 6;
  s.value = mla ? 7 : 6;
  s.interleaved = mla;
  s.scale = 0.4f;
  c.shared = mla;
  c.query = random_floats(length * s.heads * s.width(), engine);
  c.key_value = random_floats(length * s.kv_heads * (s.nope + s.value), engine);
  c.key_rope = random_floats(length * (mla ? 1 : s.kv_heads) * s.rope, engine);
  for (int64_t t = 0; t < length; ++t) {
    for (int64_t p = 0; p < s.rope / 2; ++p) {
      const double angle = static_cast<double>(t) * std::pow(50.0, -static_cast<double>(p) / 3);
      c.cos.push_back(static_cast<float>(std::cos(angle)));
      c.sin.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  if (documents) {
    const auto start = static_cast<int32_t>(length / 3);
    for (int32_t t = 0; t < length; ++t) c.first_key.push_back(t < start ? 0 : start);
  }
  return c;
}

std::vector<float> plain(const Case& c) {
  std::vector<float> out(c.out_size());
  attention_plain(c.shape, c.input(), out.data());
  return out;
}

void run_forward(const Case& c, std::vector<float>& out, std::vector<float>& log_sum) {
  out.assign(c.out_size(), -1.0f);
  log_sum.assign(static_cast<size_t>(c.shape.heads * c.shape.length), -1.0f);
  for (int64_t h = 0; h < c.shape.kv_heads; ++h) attention_forward(c.shape, c.input(), h, out.data(), log_sum.data());
}

TEST(AttentionKernel, ForwardEqualsPlain) {
  for (int64_t length : {1, 2, 63, 64, 65, 255, 257, 600}) {
    for (bool mla : {true, false}) {
      for (bool documents : {true, false}) {
        const Case c = make_case(length, mla, documents);
        std::vector<float> out, log_sum;
        run_forward(c, out, log_sum);
        const std::vector<float> expected = plain(c);
        for (size_t i = 0; i < out.size(); ++i)
          ASSERT_NEAR(out[i], expected[i], 2e-5) << length << ' ' << mla << ' ' << documents << ' ' << i;
      }
    }
  }
}

// A future token leaves the past bit for bit alone.
TEST(AttentionKernel, TheFutureIsNotRead) {
  Case c = make_case(90, /*mla=*/true, /*documents=*/false);
  std::vector<float> before, after, log_sum;
  run_forward(c, before, log_sum);
  const int64_t row = c.shape.kv_heads * (c.shape.nope + c.shape.value);
  for (int64_t i = 0; i < row; ++i) c.key_value[static_cast<size_t>(70 * row + i)] *= -3.0f;
  run_forward(c, after, log_sum);
  const int64_t out_row = c.shape.heads * c.shape.value;
  for (int64_t i = 0; i < 70 * out_row; ++i) ASSERT_EQ(before[static_cast<size_t>(i)], after[static_cast<size_t>(i)]);
  EXPECT_NE(before[static_cast<size_t>(70 * out_row)], after[static_cast<size_t>(70 * out_row)]);
}

TEST(AttentionKernel, GradientEqualsDifferences) {
  for (bool mla : {true, false}) {
    Case c = make_case(70, mla, /*documents=*/true);
    const AttentionShape& s = c.shape;
    std::vector<float> out, log_sum;
    run_forward(c, out, log_sum);
    std::mt19937 engine(7);
    const std::vector<float> dout = random_floats(static_cast<int64_t>(out.size()), engine);
    std::vector<float> dquery(c.query.size()), dkey_value(c.key_value.size());
    std::vector<float> shares(static_cast<size_t>(s.kv_heads * s.length * s.rope));
    for (int64_t h = 0; h < s.kv_heads; ++h)
      attention_backward(s, c.input(), h, out.data(), log_sum.data(), dout.data(),
                         {dquery.data(), dkey_value.data(), shares.data() + h * s.length * s.rope});
    std::vector<float> dkey_rope(c.key_rope.size());
    for (int64_t h = 0; h < s.kv_heads; ++h)
      for (int64_t t = 0; t < s.length; ++t)
        for (int64_t r = 0; r < s.rope; ++r)
          dkey_rope[static_cast<size_t>((c.shared ? t : t * s.kv_heads + h) * s.rope + r)] +=
              shares[static_cast<size_t>((h * s.length + t) * s.rope + r)];

    const auto expect_gradient = [&](std::vector<float>& values, const std::vector<float>& gradient) {
      for (size_t i = 3; i < values.size(); i += values.size() / 23) {
        const float kept = values[i], h = 0.02f;
        double difference = 0;
        for (float sign : {1.0f, -1.0f}) {
          values[i] = kept + sign * h;
          const std::vector<float> moved = plain(c);
          for (size_t o = 0; o < moved.size(); ++o) difference += double{sign} * moved[o] * dout[o];
        }
        values[i] = kept;
        EXPECT_NEAR(gradient[i], difference / (2 * double{h}), 5e-3) << mla << ' ' << i;
      }
    };
    expect_gradient(c.query, dquery);
    expect_gradient(c.key_value, dkey_value);
    expect_gradient(c.key_rope, dkey_rope);
  }
}

}  // namespace
}  // namespace engram
