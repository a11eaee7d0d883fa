#include "engram/serve/request.h"

#include <cmath>

#include "engram/serve/engine.h"

namespace engram {

Status SamplingParams::validate() const {
  const auto finite = [](double x) { return std::isfinite(x); };
  if (max_tokens < 1) return invalid_argument("max_tokens: got {}, wanted at least 1", max_tokens);
  if (!finite(temperature) || temperature < 0)
    return invalid_argument("temperature: got {}, wanted a finite number >= 0", temperature);
  if (top_k < 0) return invalid_argument("top_k: got {}, wanted 0 (off) or more", top_k);
  if (!(top_p > 0 && top_p <= 1)) return invalid_argument("top_p: got {}, wanted 0 < top_p <= 1", top_p);
  if (!(min_p >= 0 && min_p <= 1)) return invalid_argument("min_p: got {}, wanted 0 <= min_p <= 1", min_p);
  if (!finite(repetition_penalty) || repetition_penalty <= 0)
    return invalid_argument("repetition_penalty: got {}, wanted a finite number > 0", repetition_penalty);
  if (!(std::fabs(presence_penalty) <= 2))
    return invalid_argument("presence_penalty: got {}, wanted -2 .. 2", presence_penalty);
  if (!(std::fabs(frequency_penalty) <= 2))
    return invalid_argument("frequency_penalty: got {}, wanted -2 .. 2", frequency_penalty);
  if (seed < 0) return invalid_argument("seed: got {}, wanted 0 or more", seed);
  if (logprobs < -1 || logprobs > 100) return invalid_argument("logprobs: got {}, wanted 0 .. 100", logprobs);
  return {};
}

void DurationHistogram::record(double seconds) {
  size_t bucket = 0;
  while (bucket < kBounds.size() && seconds > kBounds[bucket]) ++bucket;
  ++counts[bucket];
  sum += seconds;
}

uint64_t DurationHistogram::total() const {
  uint64_t n = 0;
  for (uint64_t count : counts) n += count;
  return n;
}

}  // namespace engram
