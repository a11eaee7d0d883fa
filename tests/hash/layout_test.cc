// Layouts against the published DeepSeek-V4.1 primes, a sieve, and bad configurations. The demo's multipliers and
// primes are checked by the golden entry `golden_hash`.
#include "engram/hash/layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "engram/hash/numpy_random.h"

namespace engram {
namespace {

EngramConfig v41_config() {
  EngramConfig config;
  config.layer_ids = {1, 14};
  config.max_ngram_size = 4;
  config.n_heads = 8;
  config.head_dim = 256;
  config.vocab_size = {16000000, 16000000, 16000000};
  config.compressed_vocab_size = 99092;
  return config;
}

TEST(EngramLayout, EqualsThePublishedV41Checkpoint) {
  EngramLayout layout = value_or_throw(EngramLayout::create(v41_config(), 2));
  EXPECT_EQ(layout.rows_per_token(), 24);
  EXPECT_EQ(layout.num_rows(0), 384006168);  // engram_num_embeddings of the checkpoint
  EXPECT_EQ(layout.num_rows(1), 384016682);
  EXPECT_EQ(layout.primes(0).front(), 16000057);
  EXPECT_EQ(layout.primes(0)[8], 16000189);
  EXPECT_EQ(layout.primes(1).front(), 16000477);
  EXPECT_EQ(layout.primes(1).back(), 16000889);
  EXPECT_EQ(layout.offsets(1)[1], 16000477);
  EXPECT_EQ(layout.offsets(1)[2], 32000964);
  const std::vector<int64_t> multipliers = {67716810739261, 51510806800915, 30921347202721, 82619226485591};
  EXPECT_TRUE(std::ranges::equal(layout.multipliers(1), multipliers));
  EXPECT_EQ(value_or_throw(count_rows(v41_config())), (std::vector<int64_t>{384006168, 384016682}));
}

// composite[i] for i below 200,000.
const std::vector<bool>& sieve() {
  static const std::vector<bool> composite = [] {
    std::vector<bool> marks(200000, false);
    for (size_t i = 2; i * i < marks.size(); ++i) {
      for (size_t j = i * i; !marks[i] && j < marks.size(); j += i) marks[j] = true;
    }
    return marks;
  }();
  return composite;
}

// The rule of the specification in its plainest form, over a sieve.
std::vector<int64_t> primes_ref(const EngramConfig& config) {
  std::vector<int64_t> primes;
  std::set<int64_t> seen;
  for (size_t layer = 0; layer < config.layer_ids.size(); ++layer) {
    for (int64_t start : config.vocab_size) {
      int64_t current = start - 1;
      for (int head = 0; head < config.n_heads; ++head) {
        do {
          ++current;
        } while (current < 2 || sieve().at(static_cast<size_t>(current)) || seen.contains(current));
        seen.insert(current);
        primes.push_back(current);
      }
    }
  }
  return primes;
}

TEST(EngramLayout, RandomConfigurationsEqualASieve) {
  NumpyRandom random(11);
  for (int round = 0; round < 200; ++round) {
    EngramConfig config;
    config.layer_ids.resize(static_cast<size_t>(random.integers(1, 6)));
    std::iota(config.layer_ids.begin(), config.layer_ids.end(), 3);
    config.max_ngram_size = static_cast<int>(random.integers(2, 6));
    config.n_heads = static_cast<int>(random.integers(1, 9));
    // Near starts make the orders run into each other's primes.
    int64_t base = round % 2 == 0 ? 1 : random.integers(1, 100000);
    for (int n = 2; n <= config.max_ngram_size; ++n) config.vocab_size.push_back(base + random.integers(0, 40));
    config.compressed_vocab_size = 1000;
    EngramLayout layout = value_or_throw(EngramLayout::create(config, 0));
    std::vector<int64_t> wanted = primes_ref(config), got;
    for (int layer = 0; layer < layout.num_layers(); ++layer) {
      int64_t offset = 0;
      for (int head = 0; head < layout.rows_per_token(); ++head) {
        EXPECT_EQ(layout.offsets(layer)[static_cast<size_t>(head)], offset);
        offset += layout.primes(layer)[static_cast<size_t>(head)];
      }
      EXPECT_EQ(layout.num_rows(layer), offset);
      got.insert(got.end(), layout.primes(layer).begin(), layout.primes(layer).end());
    }
    ASSERT_EQ(got, wanted) << "round " << round;
  }
}

TEST(EngramLayout, StrongPseudoprimesAreNotPrimes) {
  // Composites that fool Miller-Rabin with few bases; each search must step over them.
  for (auto [composite, next] : {std::pair<int64_t, int64_t>{3215031751, 3215031767},  // bases 2, 3, 5, 7
                                 {2047, 2053},
                                 {561, 563},
                                 {99999999977LL, 99999999977LL}}) {  // the largest prime below 10^11
    EngramConfig config = v41_config();
    config.layer_ids = {0};
    config.max_ngram_size = 2;
    config.n_heads = 1;
    config.vocab_size = {composite};
    EXPECT_EQ(value_or_throw(count_rows(config)), std::vector<int64_t>{next});
  }
}

TEST(EngramLayout, MultipliersAreOddAndNeverOverflow) {
  for (int vocabulary : {1, 2, 99092, 1 << 20, INT32_MAX}) {
    EngramConfig config = v41_config();
    config.compressed_vocab_size = vocabulary;
    EngramLayout layout = value_or_throw(EngramLayout::create(config, 0));
    for (int64_t m : layout.multipliers(1)) {
      EXPECT_EQ(m % 2, 1);
      EXPECT_GT(m, 0);
      EXPECT_LE(m, INT64_MAX / std::max(1, vocabulary - 1));
    }
  }
}

TEST(EngramLayout, BadConfigurationsNameTheKey) {
  auto expect = [](auto change, const std::string& key) {
    EngramConfig config = v41_config();
    int pad = 2;
    change(config, pad);
    Status status = EngramLayout::create(config, pad).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << key;
    EXPECT_NE(status.message().find(key), std::string::npos) << status.message();
  };
  expect([](EngramConfig& c, int&) { c.layer_ids = {}; }, "layer_ids: got 0");
  expect([](EngramConfig& c, int&) { c.layer_ids = {1, 2, 1}; }, "layer_ids: got 1 twice");
  expect([](EngramConfig& c, int&) { c.layer_ids = {-1}; }, "layer_ids: got -1");
  expect([](EngramConfig& c, int&) { c.max_ngram_size = 1; }, "max_ngram_size: got 1");
  expect([](EngramConfig& c, int&) { c.max_ngram_size = 17; }, "max_ngram_size: got 17");
  expect([](EngramConfig& c, int&) { c.n_heads = 0; }, "n_heads: got 0");
  expect([](EngramConfig& c, int&) { c.n_heads = INT32_MAX; }, "n_heads: got");
  expect([](EngramConfig& c, int&) { c.head_dim = 0; }, "head_dim: got 0");
  expect([](EngramConfig& c, int&) { c.vocab_size.pop_back(); }, "vocab_size: got 2 sizes, wanted 3");
  expect([](EngramConfig& c, int&) { c.vocab_size[1] = 0; }, "vocab_size: got 0");
  expect([](EngramConfig& c, int&) { c.vocab_size[1] = INT64_MAX; }, "vocab_size: got 9223372036854775807");
  expect([](EngramConfig& c, int&) { c.seed = -1; }, "seed: got -1");
  expect([](EngramConfig& c, int&) { c.seed = INT64_MAX; }, "seed: got");
  expect([](EngramConfig& c, int&) { c.compressed_vocab_size = 0; }, "compressed_vocab_size: got 0");
  expect([](EngramConfig&, int& pad) { pad = 99092; }, "pad_token_id (compressed): got 99092");
  expect([](EngramConfig&, int& pad) { pad = -1; }, "pad_token_id (compressed): got -1");
  EngramConfig config = v41_config();
  config.n_heads = 0;
  EXPECT_FALSE(count_rows(config).ok());
}

}  // namespace
}  // namespace engram
