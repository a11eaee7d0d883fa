#include "engram/model/decode/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cfloat>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "engram/kernels/sampling.h"

namespace engram {
namespace {

// The `count` likeliest tokens (or all there are) with their logits, likeliest first, ties to the lower id. For a few
// of many: most logits are compared once.
std::vector<TokenLogprob> likeliest(std::span<const float> logits, size_t count) {
  std::vector<TokenLogprob> out;
  for (size_t i = 0; i < logits.size() && count > 0; ++i) {
    const float logit = logits[i];
    if (out.size() == count && logit <= out.back().logprob) continue;
    if (out.size() == count) out.pop_back();
    out.insert(std::ranges::find_if(out, [=](const TokenLogprob& one) { return one.logprob < logit; }),
               {static_cast<int32_t>(i), logit});
  }
  return out;
}

// Of tokens in the order of their likelihood, equal ones by id, the last one that is kept.
struct Cut {
  float logit = 0;
  int32_t id = 0;
};

// The shortest prefix of that order whose amounts reach `wanted`; nothing if all of them do not. Tokens are counted
// into buckets by their logit, so that only those of the bucket with the cut are put in order.
//   reach   buckets are spread over this far below the likeliest logit, at most
template <typename Amount>
std::optional<Cut> find_cut(std::span<const float> logits, Extremes range, float reach, double wanted,
                            const Amount& amount) {
  constexpr int kBuckets = 1024;
  const float distance = std::min(range.most - range.least, reach);
  const float buckets_per_unit = distance > 0 ? (kBuckets - 1) / distance : 0;
  const auto bucket_of = [&](float logit) {
    const float at = (range.most - logit) * buckets_per_unit;
    return at < kBuckets - 1 ? static_cast<int>(at) : kBuckets - 1;
  };
  std::array<double, kBuckets> amounts{};
  for (size_t i = 0; i < logits.size(); ++i) amounts[static_cast<size_t>(bucket_of(logits[i]))] += amount(i);
  size_t bucket = 0;
  for (; bucket < kBuckets && amounts[bucket] < wanted; ++bucket) wanted -= amounts[bucket];
  if (bucket == kBuckets) return std::nullopt;

  std::vector<Cut> inside;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (static_cast<size_t>(bucket_of(logits[i])) == bucket) inside.push_back({logits[i], static_cast<int32_t>(i)});
  }
  // The half with the cut in it is halved again.
  auto begin = inside.begin(), end = inside.end();
  while (end - begin > 1) {
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end,
                     [](const Cut& a, const Cut& b) { return a.logit != b.logit ? a.logit > b.logit : a.id < b.id; });
    double front = 0;
    for (auto it = begin; it != middle; ++it) front += amount(static_cast<size_t>(it->id));
    if (front >= wanted) {
      end = middle;
    } else {
      wanted -= front;
      begin = middle;
    }
  }
  return *begin;
}

}  // namespace

Status SamplerOptions::validate() const {
  if (!(temperature >= 0.0) || !std::isfinite(temperature)) {
    return invalid_argument("temperature: got {}, wanted a finite number >= 0", temperature);
  }
  if (top_k < 0) return invalid_argument("top_k: got {}, wanted >= 0 (0 is off)", top_k);
  if (!(top_p > 0.0 && top_p <= 1.0)) return invalid_argument("top_p: got {}, wanted 0 < top_p <= 1", top_p);
  if (!(min_p >= 0.0 && min_p <= 1.0)) return invalid_argument("min_p: got {}, wanted 0 <= min_p <= 1", min_p);
  if (seed < 0) return invalid_argument("seed: got {}, wanted >= 0", seed);
  return Status();
}

Status Penalties::validate() const {
  if (!(repetition > 0.0) || !std::isfinite(repetition)) {
    return invalid_argument("repetition_penalty: got {}, wanted a finite number > 0", repetition);
  }
  if (!std::isfinite(presence)) return invalid_argument("presence_penalty: got {}, wanted a finite number", presence);
  if (!std::isfinite(frequency))
    return invalid_argument("frequency_penalty: got {}, wanted a finite number", frequency);
  return Status();
}

Sampler::Sampler(const SamplerOptions& options) : options_(options), random_(static_cast<uint64_t>(options.seed)) {
  ENGRAM_CHECK(options.validate().ok(), "{}", options.validate().message());
}

int32_t Sampler::sample(std::span<const float> logits) {
  ENGRAM_CHECK(!logits.empty(), "no logits");
  const auto size = static_cast<int64_t>(logits.size());
  const Extremes range = extremes(logits.data(), size);
  const auto best = [&] { return static_cast<int32_t>(std::ranges::find(logits, range.most) - logits.begin()); };
  if (options_.temperature == 0.0) return best();

  // Weights relative to the likeliest token: no overflow at any temperature.
  const auto scale = static_cast<float>(std::min(1.0 / options_.temperature, double{FLT_MAX}));
  const auto weights = std::make_unique_for_overwrite<float[]>(logits.size());
  std::vector<double> sums(static_cast<size_t>(sum_blocks(size)));
  double total = softmax_weights(logits.data(), size, range.most, scale, static_cast<float>(options_.min_p),
                                 weights.get(), sums.data());
  const auto keep = [&](const std::optional<Cut>& cut) {
    if (cut) total = keep_likeliest(logits.data(), size, cut->logit, cut->id, weights.get(), sums.data());
  };
  // Beyond this many units of 1 / scale a token has less than 1e-13 of the likeliest one's weight.
  const float reach = 30 / scale;
  if (options_.top_k > 0 && options_.top_k < size) {
    keep(find_cut(logits, range, reach, options_.top_k, [](size_t) { return 1.0; }));
  }
  if (options_.top_p < 1.0) {
    keep(find_cut(logits, range, reach, options_.top_p * total, [&](size_t i) { return double{weights[i]}; }));
  }

  double left = random_.random() * total;
  for (int64_t block = 0; block < sum_blocks(size); ++block) {
    if (left >= sums[static_cast<size_t>(block)]) {
      left -= sums[static_cast<size_t>(block)];
      continue;
    }
    for (int64_t i = block * kSumBlock, end = std::min(size, i + kSumBlock); i < end; ++i) {
      left -= weights[static_cast<size_t>(i)];
      if (left < 0.0) return static_cast<int32_t>(i);
    }
  }
  return best();  // rounding left a rest of the total
}

void Sampler::skip(size_t count) {
  for (; count > 0 && options_.temperature > 0.0; --count) random_.random();
}

void SeenTokens::read(std::span<const int32_t> tokens, size_t num_prompt) {
  for (; num_read_ < tokens.size(); ++num_read_) generated_[tokens[num_read_]] += num_read_ < num_prompt ? 0 : 1;
}

void apply_penalties(const Penalties& penalties, const SeenTokens& seen, std::span<float> logits) {
  const auto repetition = static_cast<float>(penalties.repetition);
  for (const auto& [token, count] : seen.generated()) {
    float& logit = logits[static_cast<size_t>(token)];
    logit = logit > 0 ? logit / repetition : logit * repetition;
    if (count > 0) logit -= static_cast<float>(penalties.presence + penalties.frequency * count);
  }
}

TokenScore score_token(std::span<const float> logits, int32_t token, int count) {
  const auto size = static_cast<int64_t>(logits.size());
  const float most = extremes(logits.data(), size).most;
  const double log_sum = most + std::log(softmax_weights(logits.data(), size, most, 1, 0, nullptr, nullptr));
  TokenScore out{{token, logits[static_cast<size_t>(token)]}, likeliest(logits, static_cast<size_t>(count))};
  out.logprob = static_cast<float>(out.logprob - log_sum);
  for (TokenLogprob& one : out.top) one.logprob = static_cast<float>(one.logprob - log_sum);
  return out;
}

// Without an early end, so that the loop runs in vectors.
bool all_finite(std::span<const float> logits) {
  constexpr uint32_t kExponent = 0x7F800000;
  uint32_t odd = 0;
  for (const float x : logits) odd |= static_cast<uint32_t>((std::bit_cast<uint32_t>(x) & kExponent) == kExponent);
  return odd == 0;
}

}  // namespace engram
