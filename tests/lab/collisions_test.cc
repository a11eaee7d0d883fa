#include "engram/lab/probes/collisions.h"

#include "engram/hash/numpy_random.h"
#include "engram/lab/text/ngram_rows.h"
#include "tests/lab/probe_test.h"

namespace engram {
namespace {

TEST(NgramRows, KeysStopAtDocuments) {
  const TokenMap map = TokenMap::identity(10);
  const std::vector<int32_t> tokens = {3, 4, 3, 4, 3, 4};
  const std::vector<int64_t> starts = {0, 3};
  EngramConfig config;
  config.pad_token_id = 0;
  const auto keys = ngram_keys(map, tokens, starts, 2, config);
  EXPECT_EQ(keys[1], keys[5]);  // (3, 4) twice
  EXPECT_NE(keys[1], keys[3]);  // 4 begins a document: (pad, 4)
  EXPECT_NE(keys[2], keys[0]);
  const NgramCounts counts = count_ngrams(keys);
  ASSERT_EQ(counts.keys.size(), 4u);
  const int64_t found = counts.find(keys[5]);
  EXPECT_EQ(counts.counts[static_cast<size_t>(found)], 2);
  EXPECT_EQ(counts.positions[static_cast<size_t>(found)], 1);
  EXPECT_EQ(counts.find(12345), -1);

  const std::vector<int32_t> texts = {5, 3, 4, 6, 3, 4};
  EXPECT_NE(ngram_keys(map, texts, {}, 3, config)[2], ngram_keys(map, texts, {}, 3, config)[5]);
  config.rule = HashRule::kLongcat;
  config.pad_token_id = 3;  // ends a text: a 4 behind it has nothing before it
  EXPECT_EQ(ngram_keys(map, texts, {}, 3, config)[2], ngram_keys(map, texts, {}, 3, config)[5]);
}

using CollisionProbe = ProbeTest;

TEST_F(CollisionProbe, TrafficCountsEveryRead) {
  const LoadedModel model = load("model", MemoryKind::kEngram);
  std::vector<int32_t> tokens(50000);
  for (size_t t = 0; t < tokens.size(); ++t) tokens[t] = static_cast<int32_t>((t * t + t / 7) % 250);
  const auto traffic = row_traffic(model.hasher, tokens, std::vector<int64_t>{0, 17000});
  ASSERT_EQ(traffic.size(), 2u);
  for (const auto& layer : traffic) EXPECT_EQ(std::accumulate(layer.begin(), layer.end(), int64_t{0}), 50000 * 4);
}

TEST(CollisionSlopes, FindAPlantedCostAndIgnoreFrequency) {
  NumpyRandom random(1);
  std::vector<std::vector<double>> x;
  std::vector<double> y;
  std::vector<int64_t> bins, cluster;
  for (int64_t i = 0; i < 20000; ++i) {
    const int64_t bin = random.integers(0, 12);
    // The frequent bins share less and cost less: without the bins the slope would be far from 0.3.
    const double share = 0.05 * static_cast<double>(12 - bin) + 0.3 * random.random();
    x.push_back({share, 0.0});
    y.push_back(5.0 - static_cast<double>(bin) + 0.3 * share + random.normal());
    bins.push_back(bin);
    cluster.push_back(i / 50);
  }
  const Slopes found = slopes_within_bins(x, y, bins, cluster, 0);
  EXPECT_GT(found.intervals[0].high, 0.3);
  EXPECT_LT(found.intervals[0].low, 0.3);
  EXPECT_NEAR(found.intervals[0].high - found.intervals[0].low, 2 * 1.96 / std::sqrt(20000.0) / 0.0866, 0.06);
  EXPECT_EQ(found.values[1], 0.0);  // a column without variation
  EXPECT_EQ(found.variation[1], 0.0);
}

TEST(CollisionSlopes, BinsAreExactWhereCountsAreSmall) {
  for (int64_t count = 0; count < 32; ++count) EXPECT_EQ(count_bin(count), count);
  EXPECT_LT(count_bin(32), count_bin(36));
  EXPECT_EQ(count_bin(1000), count_bin(1010));
}

TEST_F(CollisionProbe, CountsOfASmallTable) {
  window_ = 64;
  const auto data = value_or_throw(run("collisions", {save("model", MemoryKind::kEngram)}));
  const auto& sharing = data.at("sharing");
  ASSERT_EQ(sharing.size(), 4u);                 // two layers, two orders
  EXPECT_EQ(sharing.at(0).at("rows"), 53 + 59);  // the first primes after 50
  EXPECT_EQ(sharing.at(0).at("ngrams"), sharing.at(2).at("ngrams"));
  EXPECT_GT(sharing.at(1).at("ngrams_per_row").get<double>(), 1.0);
  EXPECT_EQ(data.at("slopes").size(), 6u);
}

TEST_F(CollisionProbe, NeedsAMemory) {
  const auto found = run("collisions", {save("moe", MemoryKind::kNone)});
  ASSERT_FALSE(found.ok());
  EXPECT_NE(found.status().message().find("has no memory"), std::string::npos);
}

}  // namespace
}  // namespace engram
