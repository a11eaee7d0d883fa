// Row-sparse Adam: every form of rows and moments against the plain oracle, and what rounding at random promises.
#include "engram/kernels/row_adam.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "engram/kernels/bf16.h"
#include "tests/kernels/draw.h"

namespace engram {
namespace {

RowAdamOptions usual_options() {
  RowAdamOptions options;
  options.beta1 = 0.9f;
  options.beta2 = 0.95f;
  options.eps = 1e-8f;
  return options;
}

// A table or its first moments, in one of the forms that row_adam() takes.
struct Stored {
  Stored(const Values& values, bool half) {
    if (!half) fp32 = values;
    for (const float value : values)
      if (half) bf16.push_back(round_to_bf16(value));
  }
  float* fp32_data() { return fp32.empty() ? nullptr : fp32.data(); }
  uint16_t* bf16_data() { return bf16.empty() ? nullptr : bf16.data(); }
  Values values() const {
    Values out = fp32;
    for (const uint16_t value : bf16) out.push_back(widen_bf16(value));
    return out;
  }
  Values fp32;
  std::vector<uint16_t> bf16;
};

enum class Moments { kFp32, kBf16, kNone };

void expect_equals_plain_over_steps(int64_t dim, bool row_wise, bool half_rows, Moments moments) {
  Draw draw(7);
  const int64_t rows = 12;
  Stored table(draw.values(rows * dim), half_rows), table2 = table;
  Stored m(filled(moments == Moments::kNone ? 0 : rows * dim, 0), moments == Moments::kBf16), m2 = m;
  Values v = filled(row_wise ? rows : rows * dim, 0), v2 = v;
  std::vector<uint32_t> steps(12), steps2;
  steps[3] = 5000;  // beyond the remembered corrections
  steps[4] = std::numeric_limits<uint32_t>::max();
  steps2 = steps;
  const auto state_of = [dim](Stored& rows_of, Stored& m_of, Values& v_of, std::vector<uint32_t>& steps_of) {
    return RowAdamState{rows_of.fp32_data(), m_of.fp32_data(), v_of.data(), steps_of.data(), dim,
                        rows_of.bf16_data(), m_of.bf16_data()};
  };
  const RowAdamState state = state_of(table, m, v, steps), state2 = state_of(table2, m2, v2, steps2);
  RowAdamOptions options = usual_options();
  options.lr = 0.01f;
  options.gradient_scale = 0.5f;
  options.row_wise = row_wise;
  options.noise_key = 11;
  for (int step = 0; step < 20; ++step) {
    std::vector<int64_t> ids;
    for (int64_t row = 0; row < rows; ++row)
      if (row == 3 || row == 4 || draw.below(2) == 0) ids.push_back(row);
    const auto count = static_cast<int64_t>(ids.size());
    const Values gradient = draw.values(count * dim);
    row_adam(state, ids.data(), gradient.data(), count, options);
    row_adam_plain(state2, ids.data(), gradient.data(), count, options);
  }
  // bf16: the last bit of an fp32 number decides one rounding in 65,536.
  const bool halves = half_rows || moments == Moments::kBf16;
  const Values got = table.values(), wanted = table2.values();
  expect_near(got, wanted, half_rows ? 1e-2 : halves ? 1e-3 : 1e-6, "table");
  expect_near(m.values(), m2.values(), halves ? 1e-2 : 1e-6, "m");
  expect_near(v, v2, 1e-6, "v");
  EXPECT_EQ(steps, steps2);
  if (half_rows) {
    int64_t different = 0;
    for (size_t i = 0; i < got.size(); ++i) different += got[i] != wanted[i];
    EXPECT_LE(different, 1 + std::ssize(got) / 50);
  }
}

TEST(RowAdam, EqualsPlainOverSteps) {
  for (const int64_t dim : {1, 8, 16, 20})
    for (const bool row_wise : {false, true})
      for (const bool half_rows : {false, true})
        for (const Moments moments : {Moments::kFp32, Moments::kBf16, Moments::kNone}) {
          SCOPED_TRACE(testing::Message() << "dim " << dim << ", row-wise " << row_wise << ", bf16 rows " << half_rows
                                          << ", moments " << static_cast<int>(moments));
          expect_equals_plain_over_steps(dim, row_wise, half_rows, moments);
        }
}

TEST(RoundToBf16, MeanOfAllRandomNumbersIsTheValue) {
  for (const float value : {1.0f, -1.0f, 0.0f, 1.001f, -3.14159f, 1e-39f, 1e38f}) {
    double sum = 0;
    for (uint32_t random = 0; random < 65536; ++random)
      sum += widen_bf16(round_to_bf16(value, static_cast<uint16_t>(random)));
    EXPECT_EQ(sum / 65536, value);
  }
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(round_to_bf16(-infinity, 0xFFFF), round_to_bf16(-infinity));
  EXPECT_EQ(round_to_bf16(std::nanf(""), 0xFFFF), 0x7FC0);
}

// Rows of bf16 without a first moment, where a step of a constant gradient is -lr.
struct HalfRows {
  HalfRows(int64_t rows, int64_t row_dim) : dim(row_dim), table(static_cast<size_t>(rows * dim), round_to_bf16(1)) {
    v.resize(table.size());
    steps.resize(static_cast<size_t>(rows));
    for (int64_t row = 0; row < rows; ++row) ids.push_back(row);
    options.lr = 1e-3f;
    options.noise_key = 5;
  }
  void step(float gradient, const int64_t* numbers = nullptr) {
    row_adam({nullptr, nullptr, v.data(), steps.data(), dim, table.data(), nullptr}, ids.data(),
             filled(static_cast<int64_t>(table.size()), gradient).data(), static_cast<int64_t>(ids.size()), options,
             numbers);
  }
  double mean() const {
    double sum = 0;
    for (const uint16_t value : table) sum += widen_bf16(value);
    return sum / static_cast<double>(table.size());
  }
  int64_t dim;
  std::vector<uint16_t> table;
  Values v;
  std::vector<uint32_t> steps;
  std::vector<int64_t> ids;
  RowAdamOptions options = usual_options();
};

TEST(RowAdam, RoundingIsUnbiasedOverRowsAndColumns) {
  HalfRows rows(10'000, 30);
  rows.step(1);
  // One step below 1 is 2^-8, so .256 of the numbers go there.
  const double up = 0x1p-8, share = 1e-3 / up;
  EXPECT_NEAR(rows.mean(), 1 - 1e-3, 6 * up * std::sqrt(share * (1 - share) / 300'000));
}

TEST(RowAdam, RoundingIsUnbiasedOverSteps) {
  HalfRows rows(1, 64);
  rows.options.lr = 1e-5f;  // to nearest, the row would stand still
  for (int step = 0; step < 3000; ++step) rows.step(1);
  const double up = 0x1p-8, share = 1e-5 / up;
  EXPECT_NEAR(rows.mean(), 1 - 3000 * 1e-5, 6 * up * std::sqrt(share * 3000 / 64));
}

TEST(RowAdam, ExactNumbersStay) {
  HalfRows rows(40, 20);
  Draw draw(3);
  for (uint16_t& value : rows.table) value = round_to_bf16(draw.values(1, 1e-3f)[0]);
  const std::vector<uint16_t> before = rows.table;
  for (int step = 0; step < 20; ++step) rows.step(0);
  EXPECT_EQ(before, rows.table);
}

// Who keeps a part of a table rounds its rows as whoever keeps all of it.
TEST(RowAdam, RoundingKnowsARowByItsNumber) {
  HalfRows all(9, 20), part(2, 20), other(2, 20);
  const int64_t numbers[2] = {3, 8};
  for (int step = 0; step < 10; ++step) {
    all.step(1);
    part.step(1, numbers);
    other.step(1);
  }
  const auto row = [](const HalfRows& rows, int64_t at) {
    return std::vector(rows.table.begin() + at * 20, rows.table.begin() + (at + 1) * 20);
  };
  EXPECT_EQ(row(part, 0), row(all, 3));
  EXPECT_EQ(row(part, 1), row(all, 8));
  EXPECT_NE(row(other, 0), row(part, 0));
}

TEST(RowAdam, FirstStepMovesByTheRateWhateverTheGradient) {
  // m_hat / sqrt(v_hat) = sign(g) at the first step of a row, however many steps the others have seen.
  for (float g : {1e-3f, 1.0f, -50.0f}) {
    float table[4] = {1, 1, 1, 1}, m[4] = {}, v[4] = {};
    uint32_t steps[2] = {0, 700};
    const int64_t id = 0;
    const float gradient[2] = {g, g};
    RowAdamOptions options = usual_options();
    options.lr = 0.1f;
    row_adam({table, m, v, steps, 2}, &id, gradient, 1, options);
    EXPECT_NEAR(table[0], g > 0 ? 0.9f : 1.1f, 1e-5f);
    EXPECT_EQ(table[2], 1);  // the other row stays
    EXPECT_EQ(steps[0], 1u);
    EXPECT_EQ(steps[1], 700u);
  }
}

}  // namespace
}  // namespace engram
