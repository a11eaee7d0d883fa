// Sampling at a temperature without top_k, the API's default, sorted the whole vocabulary for every token: 89 ms at
// 129,280 tokens, where a softmax and a scan take 2 ms. Tokens are drawn in the order of their ids now, which needs no
// order of likelihood; filters look for the one place where they cut. Both are held to a full sort in double here.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "engram/hash/numpy_random.h"
#include "engram/model/decode/sampler.h"

namespace engram {
namespace {

// What a draw may give: one token, or two when the draw is within rounding of the border between them. Empty: a filter
// cuts within rounding of its border.
std::vector<int32_t> sorted_sample(const std::vector<float>& logits, const SamplerOptions& options, double draw) {
  constexpr double kRounding = 2e-6;
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  std::vector<double> weight(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    weight[i] = std::exp((double{logits[i]} - logits[order[0]]) / options.temperature);
  }
  if (options.top_k > 0) order.resize(std::min(order.size(), static_cast<size_t>(options.top_k)));
  size_t kept = 0;
  for (; kept < order.size() && (kept == 0 || weight[order[kept]] >= options.min_p); ++kept) {
    if (options.min_p > 0 && options.min_p < 1 && std::fabs(weight[order[kept]] - options.min_p) < kRounding) return {};
  }
  if (kept < order.size() && std::fabs(weight[order[kept]] - options.min_p) < kRounding) return {};
  order.resize(kept);
  double total = 0, mass = 0;
  for (size_t id : order) total += weight[id];
  for (kept = 0; kept < order.size() && (kept == 0 || mass < options.top_p * total); ++kept) {
    mass += weight[order[kept]];
    if (options.top_p < 1 && std::fabs(mass - options.top_p * total) < kRounding * total) return {};
  }
  order.resize(kept);
  std::ranges::sort(order);
  std::vector<int32_t> out;
  double before = 0;
  for (size_t id : order) {
    const double after = before + weight[id];
    if (draw * mass >= before - kRounding * mass && draw * mass < after + kRounding * mass) {
      out.push_back(static_cast<int32_t>(id));
    }
    before = after;
  }
  return out;
}

struct Kind {
  int size;
  float spread, step;  // step: logits are multiples of it, so that many are equal; 0: they are not
};

TEST(SamplingSortsTheVocabulary, ADrawIsThatOfAFullSort) {
  std::mt19937 random(7);
  int64_t checked = 0, left_out = 0;
  for (const Kind& kind : {Kind{1, 1, 0}, Kind{2, 1, 0}, Kind{50, 2, 0}, Kind{50, 2, 0.5f}, Kind{700, 3, 0},
                           Kind{700, 0.5f, 0}, Kind{700, 3, 1}, Kind{700, 0, 0}, Kind{5000, 2, 0.25f}}) {
    std::normal_distribution<float> normal(0, std::max(kind.spread, 1e-9f));
    for (int trial = 0; trial < 300; ++trial) {
      std::vector<float> logits(static_cast<size_t>(kind.size));
      for (float& x : logits) x = kind.step > 0 ? kind.step * std::round(normal(random) / kind.step) : normal(random);
      if (kind.spread == 0) std::ranges::fill(logits, 0.25f);
      SamplerOptions options;
      options.temperature = std::vector<double>{0.1, 0.7, 1, 1, 5}[random() % 5];
      options.top_k = std::vector<int>{0, 0, 1, 7, 300}[random() % 5];
      options.top_p = std::vector<double>{1, 1, 0.9, 0.5, 0.999, 1e-9}[random() % 6];
      options.min_p = std::vector<double>{0, 0, 0.05, 0.5, 1}[random() % 5];
      options.seed = trial;
      const std::vector<int32_t> allowed =
          sorted_sample(logits, options, NumpyRandom(static_cast<uint64_t>(trial)).random());
      if (allowed.empty()) {
        ++left_out;
        continue;
      }
      ++checked;
      const int32_t got = Sampler(options).sample(logits);
      ASSERT_TRUE(std::ranges::find(allowed, got) != allowed.end())
          << "got " << got << ", wanted " << allowed[0] << ": " << kind.size << " logits, spread " << kind.spread
          << ", step " << kind.step << ", temperature " << options.temperature << ", top_k " << options.top_k
          << ", top_p " << options.top_p << ", min_p " << options.min_p << ", trial " << trial;
    }
  }
  EXPECT_LT(left_out * 10, checked);
}

TEST(SamplingSortsTheVocabulary, EqualLogitsAreCutByTheirId) {
  const std::vector<float> logits(1000, 1.5f);
  for (int seed = 0; seed < 200; ++seed) {
    SamplerOptions options;
    options.seed = seed;
    options.top_p = 0.0105;
    EXPECT_LT(Sampler(options).sample(logits), 11);
    options.top_p = 1;
    options.top_k = 3;
    EXPECT_LT(Sampler(options).sample(logits), 3);
  }
}

TEST(SamplingSortsTheVocabulary, AnyTemperatureAndFilterGivesATokenThatIsKept) {
  const std::vector<float> logits = {-3e38f, 3e38f, 0.0f, 2.9e38f};
  for (double temperature : {1e-320, 1e-30, 1.0, 1e30, 1e300}) {
    for (double top_p : {1e-12, 0.5, 0.9999999999999999, 1.0}) {
      for (int top_k : {0, 1, 2}) {
        SamplerOptions options;
        options.temperature = temperature;
        options.top_p = top_p;
        options.top_k = top_k;
        const int32_t token = Sampler(options).sample(logits);
        ASSERT_TRUE(token >= 0 && token < 4);
        if (temperature <= 1.0 || top_k == 1 || top_p < 0.1) {
          EXPECT_EQ(token, 1);
        }
        if (top_k == 2) {
          EXPECT_TRUE(token == 1 || token == 3);
        }
      }
    }
  }
}

// Tokens are counted as they come, not again from the first one for each.
TEST(SamplingSortsTheVocabulary, PenaltiesReadATokenOnce) {
  const std::vector<int32_t> tokens = {3, 1, 1, 0, 1, 3};
  const Penalties penalties{.repetition = 2, .presence = 0.5, .frequency = 0.25};
  SeenTokens whole, grown;
  whole.read(tokens, 2);
  for (size_t n = 1; n <= tokens.size(); ++n) grown.read(std::span(tokens).first(n), 2);
  EXPECT_EQ(whole.generated(), grown.generated());
  std::vector<float> logits = {1, 2, 3, -4};
  apply_penalties(penalties, grown, logits);
  EXPECT_EQ(logits, (std::vector<float>{0.5f - 0.75f, 1 - 1.0f, 3, -8 - 0.75f}));
}

}  // namespace
}  // namespace engram
