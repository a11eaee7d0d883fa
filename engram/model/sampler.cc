#include "engram/model/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_map>
#include <utility>
#include <vector>

namespace engram {
namespace {

// The `count` likeliest tokens (or all there are), likeliest first, ties to the lower id.
std::vector<int32_t> likeliest(std::span<const float> logits, size_t count) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const size_t kept = std::min(count, ids.size());
  std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(kept), ids.end(), [&](int32_t a, int32_t b) {
    const float la = logits[static_cast<size_t>(a)], lb = logits[static_cast<size_t>(b)];
    return la != lb ? la > lb : a < b;
  });
  ids.resize(kept);
  return ids;
}

double log_sum(std::span<const float> logits) {
  const double most = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (float logit : logits) total += std::exp(logit - most);
  return most + std::log(total);
}

}  // namespace

Status SamplerOptions::validate() const {
  if (!(temperature >= 0.0) || !std::isfinite(temperature)) {
    return invalid_argument("--temperature: got {}, wanted a finite number >= 0", temperature);
  }
  if (top_k < 0) return invalid_argument("--top-k: got {}, wanted >= 0 (0 is off)", top_k);
  if (!(top_p > 0.0 && top_p <= 1.0)) return invalid_argument("--top-p: got {}, wanted 0 < top-p <= 1", top_p);
  if (!(min_p >= 0.0 && min_p <= 1.0)) return invalid_argument("--min-p: got {}, wanted 0 <= min-p <= 1", min_p);
  if (seed < 0) return invalid_argument("--seed: got {}, wanted >= 0", seed);
  return Status();
}

Sampler::Sampler(const SamplerOptions& options) : options_(options), random_(static_cast<uint64_t>(options.seed)) {
  ENGRAM_CHECK(options.validate().ok(), "{}", options.validate().message());
}

int32_t Sampler::sample(std::span<const float> logits) {
  ENGRAM_CHECK(!logits.empty(), "no logits");
  if (options_.temperature == 0.0) {
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  const std::vector<int32_t> ids =
      likeliest(logits, options_.top_k > 0 ? static_cast<size_t>(options_.top_k) : logits.size());
  size_t kept = ids.size();

  // Weights relative to the likeliest token: no overflow at any temperature.
  std::vector<double> weight(kept);
  const double best = logits[static_cast<size_t>(ids[0])];
  double total = 0.0;
  for (size_t i = 0; i < kept; ++i) {
    weight[i] = std::exp((static_cast<double>(logits[static_cast<size_t>(ids[i])]) - best) / options_.temperature);
    total += weight[i];
  }
  if (options_.min_p > 0.0) {
    while (kept > 1 && weight[kept - 1] < options_.min_p) total -= weight[--kept];
  }
  // Top-p keeps the shortest prefix whose share reaches p.
  double mass = 0.0;
  size_t nucleus = 0;
  while (nucleus < kept && (nucleus == 0 || mass < options_.top_p * total)) mass += weight[nucleus++];

  double left = random_.random() * mass;
  for (size_t i = 0; i + 1 < nucleus; ++i) {
    left -= weight[i];
    if (left < 0.0) return ids[i];
  }
  return ids[nucleus - 1];
}

void apply_penalties(const Penalties& penalties, std::span<const int32_t> tokens, size_t num_prompt,
                     std::span<float> logits) {
  std::unordered_map<int32_t, int> generated;  // 0: in the prompt only
  for (size_t i = 0; i < tokens.size(); ++i) generated[tokens[i]] += i < num_prompt ? 0 : 1;
  for (const auto& [token, count] : generated) {
    float& logit = logits[static_cast<size_t>(token)];
    const auto repetition = static_cast<float>(penalties.repetition);
    logit = logit > 0 ? logit / repetition : logit * repetition;
    if (count > 0) logit -= static_cast<float>(penalties.presence + penalties.frequency * count);
  }
}

float log_probability(std::span<const float> logits, int32_t token) {
  return static_cast<float>(logits[static_cast<size_t>(token)] - log_sum(logits));
}

std::vector<std::pair<int32_t, float>> top_log_probabilities(std::span<const float> logits, int count) {
  std::vector<std::pair<int32_t, float>> out;
  const double sum = log_sum(logits);
  for (int32_t id : likeliest(logits, static_cast<size_t>(std::max(0, count)))) {
    out.emplace_back(id, static_cast<float>(logits[static_cast<size_t>(id)] - sum));
  }
  return out;
}

}  // namespace engram
