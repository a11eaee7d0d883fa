// Sampler: logits -> one token. Greedy at temperature 0; deterministic for a seed, on any machine.
#pragma once
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "engram/core/numpy_random.h"
#include "engram/core/status.h"

namespace engram {

struct SamplerOptions {
  double temperature = 0.8;  // 0: greedy
  int top_k = 0;             // 0: off
  double top_p = 1.0;        // 1: off
  double min_p = 0.0;        // drops tokens below min_p * (the likeliest one's probability); 0: off
  int64_t seed = 0;
  Status validate() const;  // names the flag, got, wanted
};

class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options);
  // logits [V], all finite. Ties go to the lower id. Order: temperature, top-k, min-p, top-p.
  int32_t sample(std::span<const float> logits);

 private:
  SamplerOptions options_;
  NumpyRandom random_;
};

// Penalties on tokens seen before, in place, as vLLM and transformers define them.
struct Penalties {
  double repetition = 1.0;  // divides the positive and multiplies the negative logits of all tokens seen; 1: off
  double presence = 0.0;    // taken off the logits of tokens generated
  double frequency = 0.0;   // the same, times how often
  bool any() const { return repetition != 1.0 || presence != 0.0 || frequency != 0.0; }
};
// tokens: prompt and generated ones; the first num_prompt are the prompt.
void apply_penalties(const Penalties& penalties, std::span<const int32_t> tokens, size_t num_prompt,
                     std::span<float> logits);

// log softmax(logits)[token], in double inside.
float log_probability(std::span<const float> logits, int32_t token);
// The `count` likeliest tokens and their log probabilities, likeliest first, ties to the lower id.
std::vector<std::pair<int32_t, float>> top_log_probabilities(std::span<const float> logits, int count);

}  // namespace engram
