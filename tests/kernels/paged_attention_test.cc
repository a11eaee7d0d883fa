// Attention over pages against its plain oracle in double: any page order, chunking and grouping of heads.
#include "engram/kernels/paged_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

namespace engram {
namespace {

struct Case {
  PagedAttentionShape shape;
  PagedSequence sequence;
  std::vector<int32_t> blocks;
  std::vector<float> query, pages;
  int64_t row = 0;

  QueryRows queries() const { return {query.data(), shape.heads * shape.key_width, shape.key_width}; }
  PagedRows keys() const { return {pages.data(), row}; }
  PagedRows values(bool shared) const { return {pages.data() + (shared ? 0 : shape.key_width), row}; }
};

Case make_case(int64_t heads, int64_t position, int64_t queries, int64_t block_size, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  Case c;
  c.shape = {.heads = heads, .key_width = 11, .value_width = 9, .scale = 0.4f};
  const int64_t used = (position + queries + block_size - 1) / block_size;
  c.blocks.resize(static_cast<size_t>(used + 3));
  std::iota(c.blocks.begin(), c.blocks.end(), 0);
  if (seed % 2 == 1) std::shuffle(c.blocks.begin(), c.blocks.end(), engine);
  c.row = c.shape.key_width + c.shape.value_width;
  c.pages.resize(c.blocks.size() * static_cast<size_t>(block_size * c.row));
  for (float& x : c.pages) x = normal(engine);
  c.query.resize(static_cast<size_t>(queries * heads * c.shape.key_width));
  for (float& x : c.query) x = normal(engine);
  c.sequence = {.block_size = block_size, .position = position, .queries = queries};
  return c;
}

void expect_plain(Case& c, bool shared, int64_t columns_per_call) {
  c.sequence.blocks = c.blocks.data();
  const int64_t out_row = c.shape.heads * c.shape.value_width, columns = c.sequence.queries * c.shape.heads;
  std::vector<float> got(static_cast<size_t>(c.sequence.queries * out_row)), wanted(got.size());
  for (int64_t begin = 0; begin < columns; begin += columns_per_call) {
    paged_attention(c.shape, c.sequence, c.queries(), c.keys(), c.values(shared), begin,
                    std::min(columns, begin + columns_per_call), got.data(), out_row);
  }
  paged_attention_plain(c.shape, c.sequence, c.queries(), c.keys(), c.values(shared), wanted.data(), out_row);
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], wanted[i], 2e-6 * (1 + std::fabs(wanted[i])))
        << "element " << i << ", position " << c.sequence.position;
  }
}

TEST(PagedAttention, EqualsItsOracle) {
  unsigned seed = 0;
  for (const auto& [heads, position, queries] : std::vector<std::array<int64_t, 3>>{
           {1, 0, 1}, {4, 0, 7}, {1, 5, 1}, {8, 300, 1}, {3, 250, 30}, {16, 511, 2}, {2, 1000, 90}, {64, 3, 1}}) {
    for (int64_t block_size : {1, 5, 16}) {
      Case c = make_case(heads, position, queries, block_size, ++seed);
      expect_plain(c, /*shared=*/seed % 3 == 0, kPagedColumns);
      expect_plain(c, /*shared=*/false, 5);
    }
  }
}

// However a caller cuts the columns, each one's sums run in the same order.
TEST(PagedAttention, DoesNotDependOnTheColumnsOfACall) {
  Case c = make_case(6, 200, 20, 16, 7);
  c.sequence.blocks = c.blocks.data();
  const int64_t out_row = c.shape.heads * c.shape.value_width, columns = 120;
  std::vector<float> whole(static_cast<size_t>(20 * out_row)), single(whole.size());
  for (int64_t begin = 0; begin < columns; begin += kPagedColumns) {
    paged_attention(c.shape, c.sequence, c.queries(), c.keys(), c.values(false), begin,
                    std::min(columns, begin + kPagedColumns), whole.data(), out_row);
  }
  for (int64_t begin = 0; begin < columns; ++begin) {
    paged_attention(c.shape, c.sequence, c.queries(), c.keys(), c.values(false), begin, begin + 1, single.data(),
                    out_row);
  }
  for (size_t i = 0; i < whole.size(); ++i) ASSERT_EQ(whole[i], single[i]) << i;
}

}  // namespace
}  // namespace engram
