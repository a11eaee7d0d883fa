// The planner's numbers against brute force over small traces, and the plans it makes of them.
#include "engram/store/plan/planner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <list>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <unordered_map>
#include <vector>

#include "engram/formats/safetensors.h"
#include "engram/hash/ngram_hasher.h"
#include "engram/store/import/table_tools.h"
#include "engram/store/plan/cache_simulation.h"
#include "tests/store/store_test.h"

namespace engram {
namespace {

// Keys with Zipf frequencies, and a scan over fresh keys in the middle.
std::vector<uint32_t> make_trace(uint32_t num_keys, size_t size, double exponent, uint32_t seed) {
  std::vector<double> weights;
  for (uint32_t i = 0; i < num_keys; ++i) weights.push_back(std::pow(i + 1.0, -exponent));
  std::discrete_distribution<uint32_t> zipf(weights.begin(), weights.end());
  std::mt19937 generator(seed);
  std::vector<uint32_t> trace;
  while (trace.size() < size) trace.push_back(zipf(generator));
  for (size_t i = 0; i < num_keys / 4; ++i) trace[size / 2 + i] = static_cast<uint32_t>(num_keys - 1 - i);
  return trace;
}

int64_t lru_by_list(const std::vector<uint32_t>& trace, size_t warm, size_t size) {
  std::list<uint32_t> order;
  std::unordered_map<uint32_t, std::list<uint32_t>::iterator> at;
  int64_t hits = 0;
  for (size_t i = 0; i < trace.size(); ++i) {
    if (auto found = at.find(trace[i]); found != at.end()) {
      order.erase(found->second);
      if (i >= warm) ++hits;
    } else if (order.size() == size) {
      at.erase(order.back());
      order.pop_back();
    }
    order.push_front(trace[i]);
    at[trace[i]] = order.begin();
  }
  return hits;
}

// The paper's algorithm 1 over lists, written for clarity.
int64_t s3_fifo_by_list(const std::vector<uint32_t>& trace, size_t warm, size_t size) {
  const size_t small_size = std::max<size_t>(1, size / 10);
  std::list<uint32_t> small, main, ghost;  // new ones at the front
  std::map<uint32_t, int> frequency;       // of what is cached
  int64_t hits = 0;
  for (size_t i = 0; i < trace.size(); ++i) {
    const uint32_t key = trace[i];
    if (auto found = frequency.find(key); found != frequency.end()) {
      found->second = std::min(found->second + 1, 3);
      if (i >= warm) ++hits;
      continue;
    }
    const auto remembered = std::find(ghost.begin(), ghost.end(), key);
    const bool was_ghost = remembered != ghost.end();
    while (small.size() + main.size() >= size) {
      if (small.size() >= small_size || main.empty()) {
        const uint32_t out = small.back();
        small.pop_back();
        if (frequency[out] > 1) {
          frequency[out] = 0;
          main.push_front(out);
        } else {
          frequency.erase(out);
          ghost.push_front(out);
          if (ghost.size() > size - small_size) ghost.pop_back();
        }
      } else {
        while (frequency[main.back()] > 0) {
          --frequency[main.back()];
          main.push_front(main.back());
          main.pop_back();
        }
        frequency.erase(main.back());
        main.pop_back();
      }
    }
    if (was_ghost) {
      main.push_front(key);
    } else {
      small.push_front(key);
    }
    frequency[key] = 0;
  }
  return hits;
}

TEST(CacheSimulation, LruEqualsAList) {
  for (const double exponent : {0.3, 0.8, 1.2}) {
    const std::vector<uint32_t> trace = make_trace(300, 5000, exponent, 1);
    const std::vector<int64_t> sizes = {1, 2, 7, 30, 100, 299, 300, 1000};
    for (const size_t warm : {size_t{0}, size_t{2500}, trace.size()}) {
      const std::vector<int64_t> hits = simulate_lru(trace, 300, warm, sizes);
      for (size_t i = 0; i < sizes.size(); ++i)
        EXPECT_EQ(lru_by_list(trace, warm, static_cast<size_t>(sizes[i])), hits[i]) << sizes[i];
    }
  }
  EXPECT_EQ((std::vector<int64_t>{0}), simulate_lru({}, 0, 0, std::vector<int64_t>{5}));
}

// The two differ in one thing: a ghost that comes back leaves its entry in the simulation's queue, and its place is
// gone there until the entry's turn comes. Rates agree within a hundredth.
TEST(CacheSimulation, S3FifoFollowsThePaper) {
  for (const double exponent : {0.3, 0.8, 1.2}) {
    const std::vector<uint32_t> trace = make_trace(300, 5000, exponent, 2);
    for (const int64_t size : {2, 7, 30, 100, 299, 300}) {
      const double wanted = static_cast<double>(s3_fifo_by_list(trace, 2500, static_cast<size_t>(size)));
      EXPECT_NEAR(wanted, static_cast<double>(simulate_s3_fifo(trace, 300, 2500, size)), 25.0) << size;
    }
  }
  // A cache that holds every key misses each once.
  const std::vector<uint32_t> trace = make_trace(300, 5000, 0.8, 3);
  const std::set<uint32_t> distinct(trace.begin(), trace.end());
  EXPECT_EQ(static_cast<int64_t>(trace.size() - distinct.size()), simulate_s3_fifo(trace, 300, 0, 300));
}

TEST(CacheSimulation, S3FifoSurvivesAScan) {
  std::vector<uint32_t> trace;
  for (uint32_t round = 0; round < 20; ++round) {
    for (uint32_t key = 0; key < 50; ++key) trace.insert(trace.end(), 3, key);
    for (uint32_t key = 0; key < 200; ++key) trace.push_back(50 + round * 200 + key);
  }
  EXPECT_GT(simulate_s3_fifo(trace, 50 + 20 * 200, trace.size() / 2, 100),
            simulate_lru(trace, 50 + 20 * 200, trace.size() / 2, std::vector<int64_t>{100})[0]);
}

class PlannerTest : public StoreTest {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    SyntheticOptions options;
    options.config.head_dim = 64;
    info_ = value_or_throw(plan_synthetic(options, 3 << 20, map_));
    std::mt19937 generator(4);
    std::vector<double> weights;
    for (int i = 1; i <= 1000; ++i) weights.push_back(1.0 / i);
    std::discrete_distribution<int32_t> zipf(weights.begin(), weights.end());
    for (int i = 0; i < 6000; ++i) tokens_.push_back(zipf(generator));
  }
  CorpusProfile profile(int64_t ram) {
    return value_or_throw(profile_corpus(info_, map_, tokens_, starts_, plan_cache_sizes(info_, ram), nullptr));
  }

  TokenMap map_ = TokenMap::identity(1000);
  RowFileInfo info_;
  std::vector<int32_t> tokens_;
  std::vector<int64_t> starts_ = {0, 17, 5000};
};

TEST_F(PlannerTest, CountsEqualBruteForce) {
  const CorpusProfile measured = profile(1 << 20);
  const EngramLayout layout = value_or_throw(info_.layout());
  const std::vector<int32_t> starts(starts_.begin(), starts_.end());
  std::map<std::pair<int, int64_t>, int64_t> counts;
  std::vector<std::pair<int, int64_t>> trace;
  std::vector<std::vector<int64_t>> rows(2);
  for (int layer = 0; layer < 2; ++layer) {
    const NgramHasher hasher(layout, layer);
    rows[static_cast<size_t>(layer)].resize(tokens_.size() * 24);
    std::vector<CanonicalId> ids;
    for (int32_t id : tokens_) ids.push_back(CanonicalId{id < 0 ? -1 : map_.ids()[static_cast<size_t>(id)]});
    hasher.hash_plain(ids, starts, rows[static_cast<size_t>(layer)]);
  }
  for (size_t t = 0; t < tokens_.size(); ++t) {
    for (int layer = 0; layer < 2; ++layer) {
      for (size_t r = 0; r < 24; ++r) trace.emplace_back(layer, rows[static_cast<size_t>(layer)][t * 24 + r]);
    }
  }
  for (const auto& key : trace) ++counts[key];
  EXPECT_EQ(48, measured.rows_per_token);
  EXPECT_EQ(static_cast<int64_t>(counts.size()), measured.distinct_rows);
  ASSERT_EQ(2u, measured.rows.layers.size());
  size_t entries = 0;
  for (size_t layer = 0; layer < 2; ++layer) {
    const RowProfile::Layer& got = measured.rows.layers[layer];
    for (size_t i = 0; i < got.row_ids.size(); ++i) {
      EXPECT_EQ((counts[{static_cast<int>(layer), got.row_ids[i]}]), got.counts[i]);
      if (i > 0) {
        EXPECT_GE(got.counts[i - 1], got.counts[i]);
      }
    }
    entries += got.row_ids.size();
  }
  EXPECT_EQ(counts.size(), entries);

  // Small enough for an unsampled trace: the rates are exact.
  std::map<std::pair<int, int64_t>, uint32_t> names;
  std::vector<uint32_t> keys;
  for (const auto& key : trace) keys.push_back(names.emplace(key, names.size()).first->second);
  const size_t half = keys.size() / 2;
  const double counted = static_cast<double>(keys.size() - half);
  std::vector<int64_t> first_counts(names.size());
  for (size_t i = 0; i < half; ++i) ++first_counts[keys[i]];
  int64_t seen = 0;
  for (size_t i = half; i < keys.size(); ++i) seen += first_counts[keys[i]] > 0;
  EXPECT_DOUBLE_EQ(static_cast<double>(seen) / counted, measured.seen_before);
  for (const CachePoint& point : measured.points) {
    EXPECT_DOUBLE_EQ(static_cast<double>(lru_by_list(keys, half, static_cast<size_t>(point.rows))) / counted,
                     point.lru);
    EXPECT_LE(point.hot, measured.seen_before + 1e-12);
  }
  EXPECT_DOUBLE_EQ(measured.seen_before, measured.points.back().hot);  // a hot set of the whole table
}

TEST_F(PlannerTest, RatesGrowWithTheCache) {
  const CorpusProfile measured = profile(1 << 20);
  for (size_t i = 1; i < measured.points.size(); ++i) {
    EXPECT_GE(measured.points[i].lru, measured.points[i - 1].lru);
    EXPECT_GE(measured.points[i].hot, measured.points[i - 1].hot);
    EXPECT_GE(measured.points[i].s3_fifo, measured.points[i - 1].s3_fifo - 0.02);
  }
  EXPECT_DOUBLE_EQ(48.0, measured.distinct_per_token[0].second);
  EXPECT_LT(measured.distinct_per_token.back().second, 48.0);
  EXPECT_GT(measured.zipf_exponent, 0.3);
  EXPECT_LT(measured.zipf_exponent, 2.0);
}

TEST_F(PlannerTest, PlansFollowTheMemory) {
  PlanOptions options{.table = "a b?.rows", .profile = "p&q", .ram_bytes = int64_t{8} << 30};
  Plan plan = make_plan(info_, profile(options.ram_bytes), options);
  EXPECT_EQ(0u, plan.recommended);
  EXPECT_EQ("dram:a b%3F.rows", plan.tiers[0].uri);
  EXPECT_TRUE(plan.tiers[0].fits);

  options.ram_bytes = 256 << 10;
  options.drive_iops = 10000;
  const CorpusProfile measured = profile(options.ram_bytes);
  plan = make_plan(info_, measured, options);
  EXPECT_FALSE(plan.tiers[0].fits);
  const PlanTier& best = plan.tiers[plan.recommended];
  for (size_t i = 1; i < plan.tiers.size(); ++i) EXPECT_GE(plan.tiers[i].reads_per_token, best.reads_per_token);
  EXPECT_EQ("nvme:a b%3F.rows?cache=256KiB", plan.tiers[1].uri);
  EXPECT_EQ("nvme:a b%3F.rows?hot=p%26q&hot_size=256KiB", plan.tiers[2].uri);
  EXPECT_TRUE(best.fits);
  EXPECT_NEAR(10000 / best.reads_per_token, *best.max_tokens_per_second, 1e-6);
  EXPECT_DOUBLE_EQ(best.reads_per_token * 4096, best.drive_bytes_per_token);

  options.tokens_per_second = *best.max_tokens_per_second * 1.01;
  plan = make_plan(info_, measured, options);
  EXPECT_FALSE(plan.tiers[plan.recommended].fits);
  EXPECT_NE(std::string::npos, plan_text(measured, plan, options).find("it does not fit"));
  EXPECT_FALSE(plan_json(measured, plan)["fits"].get<bool>());
  EXPECT_NE(std::string::npos, plan_svg(measured, plan).find("</svg>"));
  options.profile.clear();
  EXPECT_EQ(3u, make_plan(info_, measured, options).tiers.size());
}

TEST_F(PlannerTest, ProfilesAreSafetensors) {
  const CorpusProfile measured = profile(1 << 20);
  throw_if_error(measured.rows.save(Env::posix(), path("p.profile")));
  const auto file = value_or_throw(SafetensorsFile::open(Env::posix(), path("p.profile")));
  const TensorView ids = value_or_throw(file.find("layers.14.row_ids")),
                   counts = value_or_throw(file.find("layers.14.counts"));
  EXPECT_EQ(DType::kI64, ids.dtype);
  EXPECT_EQ(DType::kU32, counts.dtype);
  EXPECT_EQ(static_cast<int64_t>(measured.rows.layers[1].row_ids.size()), ids.shape[0]);
  EXPECT_EQ(info_.hash->token_map_sha256, file.metadata().at("token_map_sha256"));
  EXPECT_EQ("6000", file.metadata().at("num_tokens"));
}

TEST_F(PlannerTest, Refusals) {
  const std::vector<int64_t> sizes = {10};
  EXPECT_EQ(StatusCode::kInvalidArgument,
            profile_corpus(info_, map_, std::span(tokens_).first(1), {}, sizes, nullptr).status().code());
  tokens_[3] = 1000;
  EXPECT_EQ(StatusCode::kInvalidArgument,
            profile_corpus(info_, map_, tokens_, starts_, sizes, nullptr).status().code());
  EXPECT_EQ(StatusCode::kFailedPrecondition,
            profile_corpus(info_, TokenMap::identity(999), tokens_, starts_, sizes, nullptr).status().code());
  info_.hash.reset();
  EXPECT_EQ(StatusCode::kFailedPrecondition,
            profile_corpus(info_, map_, tokens_, starts_, sizes, nullptr).status().code());
}

}  // namespace
}  // namespace engram
